"""Losses of an auxiliary balanced classifier (ABC, Lee et al. 2021): it learns from classes in equal shares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BalancedHead(nn.Module):
    """The losses of one head's auxiliary classifier, which rows of frequent classes enter with a lower probability.

    class_counts [C]: labels in use per class. threshold: of the auxiliary classifier's own pseudo-labels, in (0, 1].
    weight: factor of both losses, at least 0. Raises ValueError for others.
    """

    def __init__(self, class_counts: Tensor, threshold: float = 0.95, weight: float = 1.0):
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"abc_threshold must be in (0, 1], got {threshold}")
        if weight < 0:
            raise ValueError(f"abc_weight must be at least 0, got {weight}")
        self.threshold, self.weight = threshold, weight
        self.keep: Tensor
        there = class_counts[class_counts > 0].float()  # a class without a label is not the smallest one
        smallest = there.min() if len(there) else 1.0
        self.register_buffer("keep", (smallest / class_counts.float()).clamp(max=1), persistent=False)

    def keep_labeled(self, labels: Tensor) -> Tensor:
        """labels int64 [L] -> probability [L] that a row counts: smallest class / own class; 0 without label."""
        return self.keep[labels.clamp(min=0)] * (labels >= 0)

    def keep_unlabeled(self, target: Tensor, progress: float) -> Tensor:
        """target int64 [U] -> probability [U]: from 1 to that of labeled rows, with progress from 0 to 1."""
        return 1 - progress * (1 - self.keep[target])

    def labeled_loss(
        self, logits: Tensor, labels: Tensor, drawn: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """`weight` · cross entropy of logits [L, C] over the drawn rows, divided by ALL rows with a label.

        drawn [L]: 0 or 1 for each row in place of a draw with `keep_labeled`. rows: to divide by, where a step has
        further batches.
        """
        drawn = torch.bernoulli(self.keep_labeled(labels)) if drawn is None else drawn
        loss = F.cross_entropy(logits.float(), labels.clamp(min=0), reduction="none")
        rows = (labels >= 0).sum().clamp(min=1) if rows is None else rows
        return self.weight * (loss * drawn).sum() / rows

    def consistency_loss(
        self,
        weak: Tensor,
        strong: Tensor,
        progress: float,
        drawn: Tensor | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """`weight` · cross entropy of the strong view of confident rows that are drawn, averaged over ALL U rows.

        weak, strong: logits [U, C]. drawn [U]: 0 or 1 for each row in place of a draw with `keep_unlabeled`. share [U]:
        as in PseudoLabels.
        """
        confidence, target = weak.detach().float().softmax(dim=1).max(dim=1)
        drawn = torch.bernoulli(self.keep_unlabeled(target, progress)) if drawn is None else drawn
        loss = F.cross_entropy(strong.float(), target, reduction="none")
        loss = loss if share is None else loss * share
        return self.weight * (loss * (confidence >= self.threshold) * drawn).mean()
