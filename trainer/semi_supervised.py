"""What trainers with pseudo-labels share: a labeler for each head, what it did in the log, and the collapse guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from base.base_dataset import Batch
from base.parts import Parts
from logger.run_logger import RunLogger
from trainer.collapse_guard import CollapseGuard
from trainer.collapse_signs import Sign
from trainer.on_collapse import switch_alignment_on, warm_up_again
from trainer.pseudo_label.kinds import Align, ClassWeight, Debias, Threshold, build_labelers
from trainer.pseudo_label.labeler import PseudoLabeler, PseudoLabels
from trainer.pseudo_label.show import is_due, show_panels, show_picture
from trainer.pseudo_label.standby import stand_by
from trainer.pseudo_label.unlabeled_rows import places_in
from trainer.ramp_up import RampUpTrainer
from utils.distributed import wait_for_all
from utils.errors import UserError


class SemiSupervisedTrainer(RampUpTrainer):
    """The base of trainers whose unlabeled loss is against pseudo-labels. A subclass writes `training_step`.

    warm_up_epochs: labeled rows only. ramp_up: share of the steps after them in which lambda_u grows linearly from 0.
    abc_threshold: of the pseudo-labels of the second classifier (`arch.args.head` abc), in (0, 1].
    abc_weight: factor of its losses, at least 0; lambda_u does not change them.
    on_collapse: what follows two epochs in a row with warnings of the collapse guard: nothing (`warn`), alignment to
        the labels' prior where none is configured (`align`), a second warm-up (`warm_up`), the end of the run (`stop`).
    unlabeled_from: a head learns from the unlabeled images of `all` data sets, or of its `own`: those that have a label
        for it, and those that have none for any head.
    """

    trains_heads = ("plain", "abc")

    def __init__(
        self,
        parts: Parts,
        *,
        threshold: Threshold = "fixed",
        align: Align = None,
        debias: Debias = None,
        class_weight: ClassWeight = None,
        lambda_u: float = 1.0,
        ramp_up: float = 0.0,
        warm_up_epochs: int = 0,
        abc_threshold: float = 0.95,
        abc_weight: float = 1.0,
        on_collapse: Literal["warn", "align", "warm_up", "stop"] = "warn",
        unlabeled_from: Literal["all", "own"] = "all",
    ):
        of_abc = {"threshold": abc_threshold, "weight": abc_weight}
        switches = {"threshold": threshold, "align": align, "debias": debias, "class_weight": class_weight}
        self.unlabeled_rows, self.labelers, notes = build_labelers(parts, switches, of_abc, unlabeled_from == "own")
        self.guard, self.on_collapse, self.signs = CollapseGuard(), on_collapse, list[Sign]()
        if on_collapse == "align":
            stand_by(self.labelers, parts)
        super().__init__(parts, lambda_u=lambda_u, ramp_up=ramp_up, warm_up_epochs=warm_up_epochs)
        self.notes += notes

    def labeler(self, head: str) -> PseudoLabeler:
        module = self.labelers[head]
        assert isinstance(module, PseudoLabeler)
        return module

    def pseudo_labels(
        self, batch: Batch, of_labeled: dict[str, Tensor], of_weak: dict[str, Tensor]
    ) -> Iterator[tuple[str, PseudoLabeler, PseudoLabels]]:
        """Each head with its labeler and the pseudo-labels of this step, which are logged; once a step.

        of_labeled, of_weak: {head: logits} of the batch's labeled rows and of the weak view of its unlabeled ones.
        """
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        reads_rows = any(self.labeler(head).reads_rows for head in self.classes)
        rows = places_in(self.unlabeled_rows, unlabeled["row"]) if reads_rows else None
        for head in self.classes:
            labeler = self.labeler(head)
            labels = labeler(of_weak[head], of_labeled[head], labeled["target"][head], rows, self.progress)
            labeler.add_to(self.sums, f"pseudo/{head}", labels, unlabeled.get("hidden", {}).get(head))
            yield head, labeler, labels

    def supervised_loss(self, logits: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        """As debiasing sees the logits, and with the loss of the balanced heads."""
        adjusted = {head: self.labeler(head).labeled_logits(logits[head]) for head in target}
        loss = super().supervised_loss(adjusted, target)
        for head, labels in target.items():
            balanced = self.labeler(head).balanced
            if balanced is not None:
                of_head = balanced.labeled_loss(logits[f"{head}/balanced"], labels, rows=self._rows.get(head))
                loss = loss + self.weighted(head, of_head)
        return loss

    def epoch_values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        values = super().epoch_values(sums)
        for head in self.classes:
            pseudo = self.labeler(head).values(sums, f"pseudo/{head}")
            values.update({f"train/{head}/{name}": value for name, value in pseudo.items()})
        return values

    def epoch_notes(self, sums: dict[str, Tensor]) -> list[str]:
        """How the pseudo-labeling went."""
        found = {head: self.labeler(head).values(sums, f"pseudo/{head}") for head in self.classes}
        return [self.labeler(head).describe(head, values) for head, values in found.items() if values]

    def epoch_warnings(self, values: dict[str, float]) -> list[str]:
        """What the collapse guard says about the epoch, and what is done about it."""
        found = self.guard.observe(values, {head: self.labeler(head).expected() for head in self.parts.learned})
        self.signs = found or []
        if found is not None:
            values["train/warnings"] = len(found)
        acts = self.guard.must_act and self.step < self.epochs * self.steps_per_epoch
        return [sign.text for sign in self.signs] + (self._act() if acts else [])

    def _act(self) -> list[str]:
        """Do what `on_collapse` asks for; lines that say so."""
        said = []
        if self.on_collapse == "align":
            said = switch_alignment_on(self.labelers, self.signs, self.epoch)
        elif self.on_collapse == "warm_up":
            said = warm_up_again(self.guard, self.step, self.warm_up_steps, self.steps_per_epoch)
        if said:
            self.guard.start_anew()
        return said

    @property
    def ramp_start(self) -> int:
        return max(self.warm_up_steps, self.guard.warm_up_until)

    def start_in(self, run_dir: Path, logger: RunLogger) -> None:
        super().start_in(run_dir, logger)
        show_panels(logger, self.classes)

    def _finish_epoch(self) -> None:
        had_pseudo_labels = self.step > self.ramp_start
        super()._finish_epoch()
        if had_pseudo_labels and self.world.is_main and is_due(self.epoch, self.epochs):
            show_picture(self.logger, self.classes, self.files.run_dir, self.step)
        if self.on_collapse == "stop" and self.guard.must_act and self.step < self.epochs * self.steps_per_epoch:
            wait_for_all()
            lines = "\n  ".join(sign.text for sign in self.signs)
            text = f"stopped after epoch {self.epoch}, as trainer.args.on_collapse asks:\n  {lines}"
            raise UserError(text if self.world.is_main else "")

    def trainer_state(self) -> nn.Module:
        return nn.ModuleDict({"labelers": self.labelers, "guard": self.guard})
