"""FixMatch (Sohn et al. 2020): pseudo-labels from a weak view teach the strong view of the same image."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.parts import Parts
from trainer.collapse_guard import CollapseGuard
from trainer.pseudo_label.kinds import build_labelers
from trainer.pseudo_label.labeler import PseudoLabeler
from trainer.supervised import SupervisedTrainer
from utils.config.components import Nested
from utils.errors import UserError


class FixMatchTrainer(SupervisedTrainer):
    """L = L_labeled + lambda_u · mean over ALL unlabeled rows of weight · CE(strong, pseudo-label).

    Pseudo-labels come from the live model in training mode, without gradient and without dropout in the head.
    warm_up_epochs: labeled rows only. ramp_up: share of the steps after them in which lambda_u grows linearly from 0.
    weak_forward: `joint` computes labeled, weak and strong rows in one pass, so that batch norm sees them together, as
    in the paper; `separate` computes the weak view without gradient, which is cheaper and the same where no layer
    mixes rows; `auto` chooses `joint` for networks with batch norm.
    on_collapse: when the pseudo-labels go wrong, say so after the epoch; `stop` also ends the run after two in a row.
    """

    streams: ClassVar[tuple[str, ...]] = ("labeled", "unlabeled")
    trains_balanced_heads = True

    def __init__(
        self,
        parts: Parts,
        *,
        threshold: Annotated[dict[str, Any] | str, Nested("threshold")] = "fixed",
        align: Annotated[dict[str, Any] | str | None, Nested("align")] = None,
        debias: Annotated[dict[str, Any] | str | None, Nested("debias")] = None,
        lambda_u: float = 1.0,
        ramp_up: float = 0.0,
        warm_up_epochs: int = 0,
        weak_forward: Literal["auto", "joint", "separate"] = "auto",
        on_collapse: Literal["warn", "stop"] = "warn",
    ):
        if lambda_u < 0 or not 0 <= ramp_up <= 1 or warm_up_epochs < 0:
            raise ValueError("lambda_u and warm_up_epochs must be ≥ 0 and ramp_up in [0, 1]")
        self.unlabeled_rows, self.labelers = build_labelers(parts, threshold, align, debias)
        self.guard, self.on_collapse = CollapseGuard(), on_collapse
        super().__init__(parts)
        self.lambda_u, self.ramp_up = lambda_u, ramp_up
        self.warm_up_steps = warm_up_epochs * self.steps_per_epoch
        self.first_batch = {"unlabeled": self.warm_up_steps * self.config.trainer.accumulate}
        self.joint = weak_forward == "joint" or (weak_forward == "auto" and self.model.has_batch_norm)

    def labeler(self, head: str) -> PseudoLabeler:
        module = self.labelers[head]
        assert isinstance(module, PseudoLabeler)
        return module

    def training_step(self, batch: Batch) -> Tensor:
        if self.step < self.warm_up_steps:
            return super().training_step(batch)
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        of_labeled, of_weak, of_strong = self._forward(labeled["image"], unlabeled["weak"], unlabeled["strong"])
        rows = torch.searchsorted(self.unlabeled_rows, unlabeled["row"]) if "row" in unlabeled else None
        unsupervised, further = torch.zeros((), device=self.device), list[Tensor]()
        for head in self.classes:
            labeler = self.labeler(head)
            labels = labeler(of_weak[head], of_labeled[head], labeled["target"][head], rows, self.progress)
            unsupervised = unsupervised + labeler.consistency_loss(of_strong[head], labels)
            further += labeler.further_losses(head, of_weak, of_strong, labels, self.progress)
            sums = labeler.sums(labels, unlabeled.get("hidden", {}).get(head))
            self.sums.add({f"pseudo/{head}/{name}": value for name, value in sums.items()})
        supervised = self.supervised_loss(of_labeled, labeled["target"])
        for name, loss in (("labeled", supervised), ("unlabeled", unsupervised), *(("further", x) for x in further)):
            self.sums.add({f"mean/loss_{name}": loss / self.config.trainer.accumulate})
        return supervised + self.current_lambda_u * sum(further, unsupervised)

    def supervised_loss(self, logits: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        """As debiasing sees the logits, and with the loss of the balanced heads."""
        adjusted = {head: self.labeler(head).labeled_logits(logits[head]) for head in target}
        loss = super().supervised_loss(adjusted, target)
        for head, labels in target.items():
            balanced, (_, weight) = self.labeler(head).balanced, self.parts.losses[head]
            if balanced is not None:
                loss = loss + weight * balanced.labeled_loss(logits[f"{head}/balanced"], labels)
        return loss

    @property
    def progress(self) -> float:
        """Share of the steps after the warm-up that are done."""
        return (self.step - self.warm_up_steps) / max(1, self.epochs * self.steps_per_epoch - self.warm_up_steps)

    @property
    def current_lambda_u(self) -> float:
        """lambda_u at this step of the linear ramp."""
        ramp = self.ramp_up * (self.epochs * self.steps_per_epoch - self.warm_up_steps)
        return self.lambda_u * min(1.0, (self.step - self.warm_up_steps) / ramp) if ramp > 0 else self.lambda_u

    def _forward(self, labeled: Tensor, weak: Tensor, strong: Tensor) -> tuple[dict[str, Tensor], ...]:
        sizes = [len(weak), len(labeled), len(strong)]
        if self.joint:
            logits = self.network(self.normalize(torch.cat([weak, labeled, strong])), clean=len(weak))
            of_weak, of_labeled, of_strong = ({} for _ in range(3))
            for head, rows in logits.items():
                of_weak[head], of_labeled[head], of_strong[head] = rows.split(sizes)
            return of_labeled, of_weak, of_strong
        with torch.no_grad():
            of_weak = self.network(self.normalize(weak), clean=len(weak))
        logits = self.network(self.normalize(torch.cat([labeled, strong])))
        return (
            {head: rows[: sizes[1]] for head, rows in logits.items()},
            of_weak,
            {head: rows[sizes[1] :] for head, rows in logits.items()},
        )

    def epoch_values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        values = super().epoch_values(sums)
        for head in self.classes:
            pseudo = self._pseudo_values(sums, head)
            values.update({f"train/{head}/{name}": value for name, value in pseudo.items()})
        if self.step > self.warm_up_steps:
            values["train/lambda_u"] = self.current_lambda_u
        return values

    def epoch_notes(self, sums: dict[str, Tensor]) -> list[str]:
        """How the pseudo-labeling went; the collapse guard takes in the epoch here."""
        found = {head: self._pseudo_values(sums, head) for head in self.classes}
        expected = {head: self.labeler(head).expected() for head in self.classes}
        notes = [self.labeler(head).describe(head, values) for head, values in found.items() if values]
        return notes + [f"warning: {line}" for line in self.guard.observe(self.epoch_values(sums), expected)]

    def _finish_epoch(self) -> None:
        super()._finish_epoch()
        unfinished = self.step < self.epochs * self.steps_per_epoch
        if self.on_collapse == "stop" and self.guard.in_a_row > 1 and unfinished:
            lines = "\n  ".join(self.guard.found)
            raise UserError(f"stopped after epoch {self.epoch}, as trainer.args.on_collapse asks:\n  {lines}")

    def _pseudo_values(self, sums: dict[str, Tensor], head: str) -> dict[str, float]:
        prefix = f"pseudo/{head}/"
        own = {name[len(prefix) :]: value for name, value in sums.items() if name.startswith(prefix)}
        return self.labeler(head).values(own) if own else {}

    def trainer_state(self) -> nn.Module:
        return nn.ModuleDict({"labelers": self.labelers, "guard": self.guard})
