"""Are the loss and the weights numbers?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
def what_is_not_finite(model: nn.Module, values: Mapping[str, float]) -> str | None:
    """What a loss that was a number can leave behind: weights or running statistics that are none, or a validation
    loss, of `values`, that is none because they are too large."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return "valid/loss" if not math.isfinite(values.get("valid/loss", 0.0)) else None
