"""Supervised training: the labeled rows of every head."""

from __future__ import annotations

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer


class SupervisedTrainer(BaseTrainer):
    """Mean loss over the labeled rows of each head, summed over heads by weight."""

    def training_step(self, batch: Batch) -> Tensor:
        faces = batch["labeled"]
        return self.supervised_loss(self.network(self.normalize(faces["image"])), faces["target"])

    def supervised_loss(self, logits: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        """Scalar; logits {head: [N, C]}, target {head: int64 [N]} with −1 where a row has no label for that head."""
        total = torch.zeros((), device=self.device)
        for head, labels in target.items():
            sums = self.scoring.count(head, logits[head], labels)
            _, weight = self.parts.losses[head]
            total = total + weight * sums[f"loss/{head}"] / sums[f"rows/{head}"].clamp(min=1)
            self.sums.add({f"confusion/{head}": sums[f"confusion/{head}"]})
        return total
