"""Is the loss a number? Asked before the optimizer step without stalling a GPU's queue."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class FiniteCheck:
    """Start the check where the loss is made; `result` waits for the forward pass only, not for what came after."""

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
