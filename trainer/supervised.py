"""Supervised training: the labeled rows of every head."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from base.parts import Parts
from trainer.mix import Mixed, build_mix
from utils.config.components import Nested
from utils.distributed import sum_over_processes


class SupervisedTrainer(BaseTrainer):
    """Mean loss over the labeled rows of each head, summed over heads by weight.

    mix: how pairs of images are mixed; the targets stay pairs, share · L(own) + (1 - share) · L(partner's).
    """

    def __init__(self, parts: Parts, *, mix: Annotated[dict[str, Any] | str | None, Nested("mix")] = None):
        super().__init__(parts)
        self.mix = build_mix(parts, mix)
        self._rows: dict[str, Tensor] = {}
        self._confusions = {head: functools.partial(self.scoring.confusion, head) for head in self.classes}

    def start_step(self, batches: Sequence[Batch]) -> None:
        """Where several batches or processes make one step, each counts by its labeled rows, as in one large batch."""
        parts = len(batches) * self.world.size
        if parts > 1 and "labeled" in batches[0]:
            targets = [batch["labeled"]["target"] for batch in batches]
            counts = [sum((target[head] >= 0).sum() for target in targets) for head in self.classes]
            rows = sum_over_processes(torch.stack(counts).float()) / parts  # type: ignore[arg-type]
            self._rows = dict(zip(self.classes, torch.where(rows > 0, rows, 1)))

    def rows_of(self, head: str, rows: Tensor) -> Tensor:
        """What to divide the sum of a head's loss over its `rows` labeled rows of this batch by."""
        return self._rows.get(head, rows)

    def training_step(self, batch: Batch) -> Tensor:
        images, target = batch["labeled"]["image"], batch["labeled"]["target"]
        if self.mix is None:
            return self.supervised_loss(
                self.logits_of(images, labeled_rows(target) if self.leaves_out_rows else None), target
            )
        mixed = self.mix(images, target)
        logits = self.network(self.normalize(mixed.images))
        return self.sum_of_heads({head: self._mixed_loss(head, logits[head], target[head], mixed) for head in target})

    def logits_of(self, images: Tensor, rows: Mapping[str, Tensor] | None, clean: int = 0) -> dict[str, Tensor]:
        """{head: logits [N, C]} of images uint8 [N, h, w, 3]; rows, clean: as in BaseModel."""
        given = {} if rows is None else {"rows": rows}
        return self.network(self.normalize(images), clean=clean, **given)

    def supervised_loss(self, logits: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        """Scalar; logits {head: [N, C]}, target {head: int64 [N]} with −1 where a row has no label for that head."""
        losses = {}
        for head, labels in target.items():
            losses[head] = self.scoring.loss(head, logits[head], labels)
            self.sums.add_count(f"confusion/{head}", self._confusions[head], logits[head], labels)
        return self.sum_of_heads(losses)

    def sum_of_heads(self, losses: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Scalar from each head's loss, summed over its labeled rows, and the number of these rows."""
        of_heads = (
            self.weighted(head, mean_over(loss, self.rows_of(head, rows))) for head, (loss, rows) in losses.items()
        )
        return functools.reduce(torch.add, of_heads)

    def weighted(self, head: str, loss: Tensor) -> Tensor:
        """`loss` times the head's weight (`loss.HEAD.weight`)."""
        weight = self.parts.losses[head][1]
        return loss if weight == 1 else weight * loss

    def _mixed_loss(self, head: str, logits: Tensor, target: Tensor, mixed: Mixed) -> tuple[Tensor, Tensor]:
        """Loss and rows, both weighted by the shares; the confusion matrix counts an image under both labels alike."""
        logits, loss = logits.float(), self.parts.losses[head][0]
        predicted = F.one_hot(self.scoring.decide(head, logits), logits.shape[1]).float()
        total, rows = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for labels, share in ((target, mixed.share), (target[mixed.partner], 1 - mixed.share)):
            share = share * (labels >= 0)
            total = total + (loss(logits, labels) * share).sum()
            rows = rows + share.sum()
            true = F.one_hot(labels.clamp(min=0), logits.shape[1]) * share[:, None]
            self.sums.add({f"confusion/{head}": true.T @ predicted})
        return total, rows


def labeled_rows(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{head: bool [N]}, rows with a label, from {head: int64 [N]}."""
    return {head: labels >= 0 for head, labels in target.items()}


def mean_over(loss: Tensor, rows: Tensor) -> Tensor:
    """Sum over rows to mean; 0 without any. Rows may be fractions where images are mixed."""
    return loss / (torch.where(rows > 0, rows, 1) if rows.is_floating_point() else rows.clamp(min=1))
