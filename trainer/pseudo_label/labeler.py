"""The pseudo-labeler of one head: weak-view logits to targets and weights, and sums that show what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.collapse_signs import Expected, InUse
from trainer.pseudo_label.align import prior
from trainer.pseudo_label.balanced_head import BalancedHead
from trainer.pseudo_label.class_weight import ClassWeighting
from trainer.pseudo_label.debias import Debias
from trainer.pseudo_label.diagnostics import describe, sums_of, values_of
from trainer.pseudo_label.processes import gather_rows
from trainer.pseudo_label.step_rows import StepRows
from trainer.pseudo_label.threshold import Threshold
from trainer.pseudo_label.weak_batch import Labeled, WeakBatch, one_hot
from utils.sums import Sums


@dataclass(frozen=True)
class PseudoLabels:
    """target int64 [U], weight [U] in [0, 1], confidence [U]: the largest aligned probability.

    soft [U, C]: probabilities to be learned instead of `target`, where debiasing asks for them. factor [U]: of each
    row's loss, where classes are weighted. share [U]: where the head learns from K of the rows, U / K for these, which
    makes a mean over all rows one over them, and 0 for the others, which have weight 0.
    """

    target: Tensor
    weight: Tensor
    confidence: Tensor
    soft: Tensor | None = None
    factor: Tensor | None = None
    share: Tensor | None = None


class PseudoLabeler(nn.Module):
    """Debiased logits -> probabilities -> aligned -> targets and weights. Running state is in the switches' buffers.

    All processes see all rows of a step, so they agree on every running statistic.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        class_counts: Tensor,
        threshold: Threshold,
        align: prior | None = None,
        debias: Debias | None = None,
        balanced: BalancedHead | None = None,
        class_weight: ClassWeighting | None = None,
        places: Tensor | None = None,
        adjusted: bool = False,
    ):
        """places int64 [N]: of each of the run's unlabeled rows among those that this head learns from, −1 for others;
        None for all. adjusted: the supervised loss takes the labels' distribution out of the logits."""
        super().__init__()
        self.classes, self.balanced, self.class_weight = classes, balanced, class_weight
        self.threshold, self.align, self.debias = threshold, align, debias
        self.in_use = InUse(
            threshold=type(threshold).__name__,
            has_value=hasattr(threshold, "value"),
            starts_open=threshold.starts_open,
            adjusted=adjusted or (debias is not None and debias.adjusts_labeled),
            may_align=debias is None or debias.goes_with_align,
        )
        self.labeled_prior: Tensor
        self.register_buffer("labeled_prior", (class_counts / class_counts.sum()).float(), persistent=False)
        self.places: Tensor | None
        self.register_buffer("places", places, persistent=False)

    @torch.no_grad()
    def forward(
        self,
        logits: Tensor,
        labeled_logits: Tensor | None = None,
        labels: Tensor | None = None,
        rows: Tensor | None = None,
        progress: float = 0.0,
    ) -> PseudoLabels:
        """One training step: moves the running statistics.

        logits [U, C]: of the live model for the weak view. labeled_logits [L, C], labels int64 [L], −1 where this head
        has none: the step's labeled rows. rows int64 [U]: places of the unlabeled rows among all of them, 0 … N − 1.
        progress: share of the semi-supervised steps that are done. Which of them are needed depends on the switches.
        """
        if self.debias is not None:
            self.debias.start_step()
        step = StepRows(len(logits), rows, self.places)
        logits = step.gather(logits.detach().float())
        if not len(logits):
            return self._none_of(step)
        unaligned = self._probs(logits)
        labeled, label_counts = self._labeled(labeled_logits, labels)
        probs = unaligned if self.align is None else self.align(unaligned, labeled, progress)
        confidence, target = probs.max(dim=1)
        batch = WeakBatch(probs, confidence, target, unaligned, step.places, labeled)
        weight, target = self.threshold(batch), self.threshold.target(batch)
        soft = None
        if self.debias is not None:
            self.debias.update(logits, probs, weight, label_counts)
            soft = step.own(probs) if self.debias.soft_targets else None
        factor = None
        if self.class_weight is not None:
            factor = step.own(self.class_weight(one_hot(target, len(self.classes)).mean(dim=0))[target])
        return PseudoLabels(step.own(target), step.own(weight), step.own(confidence), soft, factor, step.share())

    def _none_of(self, step: StepRows) -> PseudoLabels:
        """A step without a row that this head learns from: its running statistics stay."""
        none = torch.zeros(step.local, device=self.labeled_prior.device)
        return PseudoLabels(none.long(), weight=none, confidence=none, share=none)

    def _probs(self, logits: Tensor) -> Tensor:
        return (logits if self.debias is None else self.debias.pseudo(logits)).softmax(dim=1)

    def _labeled(self, logits: Tensor | None, labels: Tensor | None) -> tuple[Labeled | None, Tensor]:
        """Probabilities of the labeled rows, and labels per class [C]; None and 0 where no switch reads them."""
        counts = torch.zeros_like(self.labeled_prior)
        counted = self.debias is not None and self.debias.counts_labels
        read = self.reads_labeled and logits is not None
        if labels is not None and (counted or read):
            labels = gather_rows(labels)
        if labels is not None and counted:
            counts = one_hot(labels, len(self.classes)).sum(dim=0)
        if logits is None or not read:
            return None, counts
        probs = self._probs(gather_rows(logits.detach().float()))
        known = torch.ones_like(probs[:, 0]) if labels is None else (labels >= 0).to(probs.dtype)
        return Labeled(probs, known), counts

    def learns_from(self, rows: Tensor) -> Tensor:
        """bool [U]; rows as in `forward`."""
        return torch.ones_like(rows, dtype=torch.bool) if self.places is None else self.places[rows] >= 0

    @property
    def reads_rows(self) -> bool:
        """Whether `forward` needs the rows' places."""
        return self.threshold.reads_rows or self.places is not None

    @property
    def reads_labeled(self) -> bool:
        """Whether a switch looks at what the network says about the labeled rows."""
        return self.threshold.reads_labeled or (self.align is not None and self.align.reads_labeled)

    def labeled_logits(self, logits: Tensor) -> Tensor:
        """Logits [L, C] that the supervised loss sees."""
        return logits if self.debias is None else self.debias.labeled(logits)

    def consistency_loss(self, logits: Tensor, labels: PseudoLabels, rows: int | None = None) -> Tensor:
        """Cross entropy of strong-view logits [U, C] against the pseudo-labels, averaged over ALL U rows (eq. 4).

        rows: U, where only the rows that have a weight are given.
        """
        logits = self._student(logits)
        target = labels.target if labels.soft is None else labels.soft
        weighted = F.cross_entropy(logits, target, reduction="none") * labels.weight
        for factor in (labels.factor, labels.share):
            weighted = weighted if factor is None else weighted * factor
        return weighted.sum() / (len(weighted) if rows is None else rows)

    def further_losses(
        self,
        head: str,
        weak: Mapping[str, Tensor],
        strong: Mapping[str, Tensor],
        labels: PseudoLabels,
        progress: float = 0.0,
    ) -> list[Tensor]:
        """Terms of the threshold and the balanced head beside lambda_u · L_u; weak, strong: {head: logits [U, C]}."""
        term = self.threshold.regularization(self._student(strong[head]), labels.weight)
        losses = [] if term is None else [term]
        if self.balanced is not None:
            name = f"{head}/balanced"
            losses.append(self.balanced.consistency_loss(weak[name], strong[name], progress, share=labels.share))
        return losses

    def _student(self, logits: Tensor) -> Tensor:
        return logits.float() if self.debias is None else self.debias.student(logits.float())

    def add_to(self, sums: Sums, name: str, labels: PseudoLabels, hidden: Tensor | None) -> None:
        """Add to `sums`, as NAME/…, what `values` needs. hidden: int64 [U] labels kept aside, −1 for none."""
        thresholds = self.threshold.per_class(len(self.classes)).clone()[None]  # a threshold may write to its own
        rows = [labels.target, labels.weight, labels.confidence, *(() if hidden is None else (hidden,))]
        if labels.share is not None:
            rows = [of_row[labels.share > 0] for of_row in rows]
        sums.add_count(name, sums_of, thresholds, *rows)

    def values(self, sums: Mapping[str, Tensor], name: str) -> dict[str, float]:
        """An epoch's diagnostics from its sums NAME/…; what is undefined (no pseudo-label accepted) is left out."""
        sums = {key.removeprefix(f"{name}/"): value for key, value in sums.items() if key.startswith(f"{name}/")}
        if not sums.get("rows", 0):
            return {}
        return values_of(sums, self.classes, self.labeled_prior, self.expected().shares)

    def expected(self) -> Expected:
        """The class distribution that accepted pseudo-labels should have: a target that holds still, or the labels'."""
        labels = dict(zip(self.classes, self.labeled_prior.tolist()))
        if self.align is None or not self.align.on or self.align.follows_network:
            return Expected(labels, in_use=self.in_use)
        by_labels = torch.allclose(self.align.target, self.labeled_prior, atol=1e-4)
        shares = dict(zip(self.classes, self.align.target.tolist()))
        return Expected(shares, True, by_labels, None if by_labels or self.align.given else labels, self.in_use)

    def describe(self, head: str, values: dict[str, float]) -> str:
        """One line for people about an epoch's `values`."""
        return describe(head, values, dict(zip(self.classes, self.labeled_prior.tolist())))
