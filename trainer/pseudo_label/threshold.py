"""Which pseudo-labels count: weights from aligned weak-view probabilities."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class fixed(nn.Module):
    """FixMatch's threshold (Sohn et al. 2020): rows whose largest probability is at least `value`.

    value: in (0, 1].
    """

    def __init__(self, *, value: float = 0.95):
        super().__init__()
        if not 0 < value <= 1:
            raise ValueError(f"value must be in (0, 1], got {value}")
        self.value = value

    def forward(self, probs: Tensor) -> Tensor:
        """probs [U, C] -> weights [U], 0 or 1."""
        return probs.max(dim=1).values.ge(self.value).to(probs.dtype)

    def per_class(self, classes: int) -> Tensor:
        """The effective threshold of each class, [C]."""
        return torch.full((classes,), self.value)
