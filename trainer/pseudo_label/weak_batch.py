"""What thresholds and aligners see of one step, over all processes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from utils.sums import class_numbers


@dataclass(frozen=True)
class Labeled:
    """probs [L, C] of the step's labeled rows, after debiasing; known float [L]: 1 where this head has a label."""

    probs: Tensor
    known: Tensor

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """values [L, …] -> their mean over the known rows […], and whether there is any (bool [])."""
        weight = self.known.view(-1, *[1] * (values.ndim - 1))
        return (values * weight).sum(dim=0) / self.known.sum().clamp(min=1), self.known.sum() > 0


@dataclass(frozen=True)
class WeakBatch:
    """The weak view of one step's unlabeled rows.

    probs [U, C]: after debiasing and alignment; confidence [U] and target int64 [U] are their maximum.
    unaligned [U, C]: after debiasing only. rows int64 [U]: places among the run's unlabeled rows, 0 … N − 1.
    """

    probs: Tensor
    confidence: Tensor
    target: Tensor
    unaligned: Tensor
    rows: Tensor | None = None
    labeled: Labeled | None = None


def one_hot(target: Tensor, classes: int) -> Tensor:
    """int64 [N] -> float [N, C] (0 for −1), without reading a value back from the device as F.one_hot does."""
    return (target[:, None] == class_numbers(classes, target.device)).float()
