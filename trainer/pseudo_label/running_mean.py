"""Exponential running means that a checkpoint holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kept_share(updates: Tensor, momentum: float) -> Tensor:
    """k at update n (from 0) of a mean that is plain at first: min(momentum, n / (n + 1))."""
    return (updates / (updates + 1)).clamp(max=momentum)


class RunningMean(nn.Module):
    """m ← k·m + (1 − k)·new, k = momentum.

    start: the value before the first update. bias_correction: k is `kept_share`, a plain mean of the first
    1 / (1 − momentum) values, so `start` leaves no trace; else `start` fades with momentum^n,
    as in most published code, which a run of a few hundred steps never gets rid of at 0.999. each: every entry has
    updates of its own.
    """

    def __init__(self, start: Tensor, momentum: float, bias_correction: bool = True, each: bool = False):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.momentum, self.bias_correction = momentum, bias_correction
        self.value: Tensor
        self.updates: Tensor
        self.register_buffer("value", start.float().clone())
        self.register_buffer("updates", torch.zeros(start.shape if each else (), dtype=torch.int64))

    def forward(self, new: Tensor, valid: Tensor | bool = True) -> Tensor:
        """Take `new` in where `valid` (of all entries, or of `each`) is true, and return the mean."""
        keep = kept_share(self.updates, self.momentum) if self.bias_correction else self.momentum
        valid = torch.as_tensor(valid, device=self.value.device)
        self.value.copy_(torch.where(valid, keep * self.value + (1 - keep) * new, self.value))
        self.updates += valid
        return self.value
