"""Pseudo-Label (Lee 2013): the network's own predictions are the labels of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.parts import Parts
from trainer.semi_supervised import (
    Align,
    ClassWeight,
    Debias,
    OnCollapse,
    SemiSupervisedTrainer,
    Threshold,
    UnlabeledFrom,
)


class PseudoLabelTrainer(SemiSupervisedTrainer):
    """L = L_labeled + lambda_u · mean over ALL unlabeled rows of weight · CE(weak, pseudo-label of the same logits).

    FixMatch without the strong view, its baseline: the switches are the same. Labeled and unlabeled rows are computed
    in one pass, the unlabeled ones without dropout in the head.
    warm_up_epochs: labeled rows only. ramp_up: share of the steps after them in which lambda_u grows linearly from 0.
    abc_threshold: of the pseudo-labels of the second classifier (`arch.args.head` abc), in (0, 1].
    abc_weight: factor of its losses, at least 0; lambda_u does not change them.
    on_collapse: what follows two epochs in a row with warnings of the collapse guard: nothing (`warn`), alignment to
        the labels' prior where none is configured (`align`), a second warm-up (`warm_up`), the end of the run (`stop`).
    unlabeled_from: a head learns from the unlabeled images of `all` data sets, or of its `own`: those that have a label
        for it, and those that have none for any head.
    """

    streams: ClassVar[Mapping[str, Mapping[str, str]]] = {"labeled": {"image": "train"}, "unlabeled": {"weak": "weak"}}

    def __init__(
        self,
        parts: Parts,
        *,
        threshold: Threshold = "fixed",
        align: Align = None,
        debias: Debias = None,
        class_weight: ClassWeight = None,
        lambda_u: float = 1.0,
        ramp_up: float = 0.4,
        warm_up_epochs: int = 0,
        abc_threshold: float = 0.95,
        abc_weight: float = 1.0,
        on_collapse: OnCollapse = "warn",
        unlabeled_from: UnlabeledFrom = "all",
    ):
        super().__init__(
            parts,
            threshold=threshold,
            align=align,
            debias=debias,
            class_weight=class_weight,
            lambda_u=lambda_u,
            ramp_up=ramp_up,
            warm_up_epochs=warm_up_epochs,
            abc_threshold=abc_threshold,
            abc_weight=abc_weight,
            on_collapse=on_collapse,
            unlabeled_from=unlabeled_from,
        )

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
