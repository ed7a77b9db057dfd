"""Distribution alignment of weak-view probabilities (ReMixMatch, Berthelot et al. 2020, §3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_EPSILON = 1e-6


def align(probs: Tensor, target: Tensor, running: Tensor) -> Tensor:
    """probs: [U, C] probabilities; target, running: [C] class distributions. Returns [U, C], rows sum to 1.

    Raises ValueError if a distribution has a negative entry or does not sum to 1.
    """
    for name, distribution in (("target", target), ("running", running)):
        if bool((distribution < 0).any()) or abs(float(distribution.sum()) - 1) > 1e-3:
            raise ValueError(f"{name} is not a distribution: {distribution.tolist()}")
    return _align(probs, target, running)


def _align(probs: Tensor, target: Tensor, running: Tensor) -> Tensor:
    scaled = probs * (target + _EPSILON) / (running + _EPSILON)
    return scaled / scaled.sum(dim=1, keepdim=True)


class prior(nn.Module):
    """Scale probabilities so that their running mean becomes the class distribution of the labels.

    momentum: of the running mean, in [0, 1); its first value is the first batch's mean, so a short run has no start-up
    bias. distribution: the target where the labels' own distribution is not that of the unlabeled images (for example
    when as many labels of each class were drawn).
    """

    def __init__(self, class_counts: Tensor, *, momentum: float = 0.99, distribution: list[float] | None = None):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        counts = class_counts.double() if distribution is None else torch.tensor(distribution, dtype=torch.float64)
        if len(counts) != len(class_counts) or bool((counts < 0).any()) or float(counts.sum()) <= 0:
            raise ValueError(f"distribution must be {len(class_counts)} shares ≥ 0, got {distribution}")
        self.momentum = momentum
        self.target: Tensor
        self.running: Tensor
        self.updates: Tensor
        self.register_buffer("target", (counts / counts.sum()).float())
        self.register_buffer("running", torch.zeros(len(counts)))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, probs: Tensor, mean: Tensor | None = None) -> Tensor:
        """probs [U, C] -> aligned [U, C]; `mean` [C]: the batch's mean over all processes where there are several."""
        mean = probs.mean(dim=0) if mean is None else mean
        moved = self.running * self.momentum + mean * (1 - self.momentum)
        self.running.copy_(torch.where(self.updates == 0, mean, moved))
        self.updates += 1
        return _align(probs, self.target, self.running)


class uniform(prior):
    """Alignment to equal shares: for data known to be balanced; on imbalanced data it invents minority labels."""

    def __init__(self, class_counts: Tensor, *, momentum: float = 0.99):
        super().__init__(class_counts, momentum=momentum, distribution=[1.0] * len(class_counts))
