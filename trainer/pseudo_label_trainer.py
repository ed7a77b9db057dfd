"""Pseudo-Label (Lee 2013): the network's own predictions are the labels of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.parts import Parts
from trainer.semi_supervised import SemiSupervisedTrainer


class PseudoLabelTrainer(SemiSupervisedTrainer):
    """L = L_labeled + lambda_u · mean over ALL unlabeled rows of weight · CE(weak, pseudo-label of the same logits).

    FixMatch without the strong view, its baseline: the switches are the same. Labeled and unlabeled rows are computed
    in one pass, the unlabeled ones without dropout in the head.
    ramp_up, switches: as in SemiSupervisedTrainer.
    """

    streams: ClassVar[Mapping[str, Mapping[str, str]]] = {"labeled": {"image": "train"}, "unlabeled": {"weak": "weak"}}

    def __init__(self, parts: Parts, *, ramp_up: float = 0.4, **switches: Any):
        super().__init__(parts, ramp_up=ramp_up, **switches)

    def training_step(self, batch: Batch) -> Tensor:
        if self.in_warm_up:
            return super().training_step(batch)
        weak, labeled = batch["unlabeled"]["weak"], batch["labeled"]
        logits = self.network(self.normalize(torch.cat([weak, labeled["image"]])), clean=len(weak))
        of_weak = {head: rows[: len(weak)] for head, rows in logits.items()}
        of_labeled = {head: rows[len(weak) :] for head, rows in logits.items()}
        unsupervised, further = dict[str, Tensor](), dict[str, list[Tensor]]()
        for head, labeler, labels in self.pseudo_labels(batch, of_labeled, of_weak):
            unsupervised[head] = labeler.consistency_loss(of_weak[head], labels, len(weak))
            further[head] = labeler.further_losses(head, of_weak, of_weak, labels, self.progress)
        return self.total_loss(self.supervised_loss(of_labeled, labeled["target"]), unsupervised, further)
