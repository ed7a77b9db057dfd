"""FixMatch (Sohn et al. 2020): pseudo-labels from a weak view teach the strong view of the same image."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.parts import Parts
from trainer.pseudo_label.kinds import build_labeler
from trainer.pseudo_label.labeler import PseudoLabeler
from trainer.supervised import SupervisedTrainer
from utils.config.components import Nested


class FixMatchTrainer(SupervisedTrainer):
    """L = L_labeled + lambda_u · mean over ALL unlabeled rows of weight · CE(strong, pseudo-label).

    Pseudo-labels come from the live model in training mode, without gradient and without dropout in the head.
    warm_up_epochs: labeled rows only. ramp_up: share of the steps after them in which lambda_u grows linearly from 0.
    weak_forward: `joint` computes labeled, weak and strong rows in one pass, so that batch norm sees them together, as
    in the paper; `separate` computes the weak view without gradient, which is cheaper and the same where no layer
    mixes rows; `auto` chooses `joint` for networks with batch norm.
    """

    streams: ClassVar[tuple[str, ...]] = ("labeled", "unlabeled")

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
    ):
        if lambda_u < 0 or not 0 <= ramp_up <= 1 or warm_up_epochs < 0:
            raise ValueError("lambda_u and warm_up_epochs must be ≥ 0 and ramp_up in [0, 1]")
        self.labelers = nn.ModuleDict(
            {
                head: build_labeler(names, parts.data.class_counts[head], threshold, align, debias)
                for head, names in parts.data.classes.items()
            }
        ).to(parts.device)
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
        supervised = self.supervised_loss(of_labeled, labeled["target"])
        unsupervised = torch.zeros((), device=self.device)
        for head in self.classes:
            labeler = self.labeler(head)
            labels = labeler(of_weak[head])
            unsupervised = unsupervised + labeler.consistency_loss(of_strong[head], labels)
            sums = labeler.sums(labels, unlabeled.get("hidden", {}).get(head))
            self.sums.add({f"pseudo/{head}/{name}": value for name, value in sums.items()})
        self.sums.add({"mean/loss_labeled": supervised, "mean/loss_unlabeled": unsupervised})
        return supervised + self.current_lambda_u * unsupervised

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
        found = {head: self._pseudo_values(sums, head) for head in self.classes}
        return [self.labeler(head).describe(head, values) for head, values in found.items() if values]

    def _pseudo_values(self, sums: dict[str, Tensor], head: str) -> dict[str, float]:
        prefix = f"pseudo/{head}/"
        own = {name[len(prefix) :]: value for name, value in sums.items() if name.startswith(prefix)}
        return self.labeler(head).values(own) if own else {}

    def trainer_state(self) -> nn.Module:
        return self.labelers
