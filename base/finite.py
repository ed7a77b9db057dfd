"""Are the loss and the weights numbers?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from utils.errors import UserError

AGAINST_OVERFLOW = "lower optimizer.args.lr, set trainer.clip_grad or trainer.precision=fp32"


class FiniteCheck:
    """Asks before the optimizer step without stalling a GPU's queue: start where the loss is made; `result` waits for
    the forward pass only, not for what came after."""

    def __init__(self, loss: Tensor):
        self._event: torch.cuda.Event | None = None
        self._loss = loss.detach()
        if loss.is_cuda:
            self._loss = self._loss.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def result(self) -> bool:
        if self._event is not None:
            self._event.synchronize()
        return math.isfinite(self._loss.item())


@torch.no_grad()
def check_finite(models: Iterable[nn.Module], values: Mapping[str, float], after: str) -> None:
    """Before anything is chosen or saved: of NaN an argmax makes the first class, which may score well.

    A loss that was a number can leave weights or running statistics that are none, or so large that the validation
    loss, of `values`, is none. Raises UserError that says `after` which step.
    """
    states = chain.from_iterable(model.state_dict().items() for model in dict.fromkeys(models))
    finite = {name: x.isfinite().all() for name, x in states if x.is_floating_point()}
    whole = torch.stack([*finite.values()]).tolist() if finite else []  # one wait for the device
    wrong = [name for name, is_whole in zip(finite, whole) if not is_whole]
    if not math.isfinite(values.get("valid/loss", 0.0)):
        wrong.append("valid/loss")
    if wrong:
        raise UserError(
            f"{wrong[0]} is not finite after {after}; what was saved before is kept. For a new run: {AGAINST_OVERFLOW}"
        )
