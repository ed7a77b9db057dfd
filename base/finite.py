"""Is the loss a number? Asked before the optimizer step without stalling a GPU's queue."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteCheck:
    """Start the check where the loss is made; `result` waits for the forward pass only, not for what came after."""

    def __init__(self, loss: Tensor):
        finite = torch.isfinite(loss.detach())
        self._event: torch.cuda.Event | None = None
        if loss.is_cuda:
            finite = finite.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        self._finite = finite

    def result(self) -> bool:
        if self._event is not None:
            self._event.synchronize()
        return bool(self._finite)
