"""FixMatch (Sohn et al. 2020): pseudo-labels from a weak view teach the strong view of the same image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.parts import Parts
from trainer.pseudo_label.labeler import PseudoLabeler, PseudoLabels
from trainer.pseudo_label.unlabeled_rows import places_in
from trainer.selective import check_leaves_out, check_selective, only, rows_with_weight
from trainer.semi_supervised import SemiSupervisedTrainer
from trainer.supervised import labeled_rows

Logits = dict[str, Tensor]
Rows = dict[str, Tensor] | None  # {head: bool [N]}, None for all
Found = Iterable[tuple[str, PseudoLabeler, PseudoLabels]]


class FixMatchTrainer(SemiSupervisedTrainer):
    """L = L_labeled + lambda_u · mean over ALL unlabeled rows of weight · CE(strong, pseudo-label).

    Pseudo-labels come from the live model in training mode, without gradient and without dropout in the head.
    weak_forward: `joint` computes labeled, weak and strong rows in one pass, so that batch norm sees them together, as
    in the paper; `separate` computes the weak view without gradient, which is cheaper and the same where no layer
    mixes rows; `auto` chooses `joint` for networks with batch norm.
    selective: compute only those strong rows that have a weight; the same loss, since the others add nothing to it.
    switches: as in SemiSupervisedTrainer.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        weak_forward: Literal["auto", "joint", "separate"] = "auto",
        selective: bool = False,
        **switches: Any,
    ):
        self.selective = selective
        if selective:
            check_selective(parts.config, parts.model, weak_forward)
        super().__init__(parts, **switches)
        if selective:
            check_leaves_out(parts.config, {head: self.labeler(head) for head in self.classes})
        self.joint = weak_forward == "joint" or (weak_forward == "auto" and self.model.has_batch_norm)

    def training_step(self, batch: Batch) -> Tensor:
        if self.in_warm_up:
            return super().training_step(batch)
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        found: Found
        if self.selective:
            of_labeled, of_weak, of_strong, found = self._forward_selected(batch)
        else:
            of_labeled, of_weak, of_strong = self._forward(batch)
            found = self.pseudo_labels(batch, of_labeled, of_weak)
        unsupervised, further = dict[str, Tensor](), dict[str, list[Tensor]]()
        for head, labeler, labels in found:
            unsupervised[head] = labeler.consistency_loss(of_strong[head], labels, len(unlabeled["weak"]))
            further[head] = labeler.further_losses(head, of_weak, of_strong, labels, self.progress)
        return self.total_loss(self.supervised_loss(of_labeled, labeled["target"]), unsupervised, further)

    def _forward_selected(self, batch: Batch) -> tuple[Logits, Logits, Logits, Found]:
        """Weak rows first; then, with gradient, the labeled and those strong rows whose pseudo-label has a weight."""
        labeled, unlabeled = batch["labeled"]["image"], batch["unlabeled"]
        first, count = unlabeled["weak"], len(unlabeled["weak"])
        known, own = self._rows_that_count(batch)
        rows = own
        if any(self.labeler(head).reads_labeled for head in self.classes):
            first, rows = torch.cat([first, labeled]), joined(own, known)
        with torch.no_grad():
            # One forward pass with gradient, as data-parallel training wants it; statistics need labeled rows before.
            logits = self.logits_of(first, rows, clean=count)
        of_weak = {head: rows[:count] for head, rows in logits.items()}
        found = list(self.pseudo_labels(batch, {head: rows[count:] for head, rows in logits.items()}, of_weak))
        keep = rows_with_weight(labels for _, _, labels in found)
        rows = joined(known, own and {head: of_head[keep] for head, of_head in own.items()})
        logits = self.logits_of(torch.cat([labeled, unlabeled["strong"][keep]]), rows)
        self.sums.add({"mean/strong_rows": keep.float().mean() / self.config.trainer.accumulate})
        return (
            {head: rows[: len(labeled)] for head, rows in logits.items()},
            of_weak,
            {head: rows[len(labeled) :] for head, rows in logits.items()},
            [(head, labeler, only(labels, keep)) for head, labeler, labels in found],
        )

    def _forward(self, batch: Batch) -> tuple[Logits, ...]:
        """Of the labeled rows, the weak and the strong views."""
        labeled, weak, strong = batch["labeled"]["image"], batch["unlabeled"]["weak"], batch["unlabeled"]["strong"]
        sizes = [len(weak), len(labeled), len(strong)]
        if self.joint:
            logits = self.network(self.normalize(torch.cat([weak, labeled, strong])), clean=len(weak))
            of_weak, of_labeled, of_strong = ({} for _ in range(3))
            for head, rows in logits.items():
                of_weak[head], of_labeled[head], of_strong[head] = rows.split(sizes)
            return of_labeled, of_weak, of_strong
        known, own = self._rows_that_count(batch)
        with torch.no_grad():
            of_weak = self.logits_of(weak, own, clean=len(weak))
        logits = self.logits_of(torch.cat([labeled, strong]), joined(known, own))
        return (
            {head: rows[: sizes[1]] for head, rows in logits.items()},
            of_weak,
            {head: rows[sizes[1] :] for head, rows in logits.items()},
        )

    def _rows_that_count(self, batch: Batch) -> tuple[Rows, Rows]:
        """For each head the labeled and the unlabeled ones; None where the network computes all for all."""
        if not self.leaves_out_rows:
            return None, None
        places = places_in(self.unlabeled_rows, batch["unlabeled"]["row"])
        own = {head: self.labeler(head).learns_from(places) for head in self.classes}
        return labeled_rows(batch["labeled"]["target"]), own


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of two batches that become one."""
    if first is None or second is None:
        return None
    return {head: torch.cat([rows, second[head]]) for head, rows in first.items()}
