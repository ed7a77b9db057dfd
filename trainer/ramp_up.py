"""The schedule of an unlabeled loss: first labeled images only, then a weight that grows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from base.parts import Parts
from trainer.supervised import SupervisedTrainer
from utils.errors import ConfigError


class RampUpTrainer(SupervisedTrainer):
    """L = L_labeled + lambda_u · L_unlabeled. A subclass's `training_step` is supervised while `in_warm_up`.

    warm_up_epochs: labeled rows only. ramp_up: share of the steps after them in which lambda_u grows linearly from 0.
    A warm-up that is the whole run, as in a trial of one epoch, has a warning in `notes`.
    """

    streams: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "labeled": {"image": "train"},
        "unlabeled": {"weak": "weak", "strong": "strong"},
    }

    def __init__(self, parts: Parts, *, lambda_u: float, ramp_up: float, warm_up_epochs: int):
        for name, value, is_valid, limit in (
            ("lambda_u", lambda_u, lambda_u >= 0, "of at least 0"),
            ("ramp_up", ramp_up, 0 <= ramp_up <= 1, "from 0 to 1"),
            ("warm_up_epochs", warm_up_epochs, warm_up_epochs >= 0, "of at least 0"),
        ):
            if not is_valid:
                place = parts.config.where(f"trainer.args.{name}")
                raise ConfigError(f"{place}: expected a number {limit}, got {value}")
        super().__init__(parts)
        self.lambda_u, self.ramp_up = lambda_u, ramp_up
        self.notes = self._notes_about(warm_up_epochs)
        self.warm_up_steps = warm_up_epochs * self.steps_per_epoch
        self.monitor.warm_up = warm_up_epochs if warm_up_epochs < self.epochs else 0
        self.first_batch = {"unlabeled": self.warm_up_steps * self.config.trainer.accumulate}

    def _notes_about(self, warm_up_epochs: int) -> list[str]:
        if warm_up_epochs < self.epochs or self.lambda_u == 0:
            return []
        text = f"{warm_up_epochs} epochs of warm-up leave none of {self.epochs} to learn from unlabeled images"
        return [f"warning: trainer.args.warm_up_epochs: {text}; set it below trainer.epochs, 0 is none"]

    def about_best(self, epoch: int) -> str:
        if 0 < epoch <= self.monitor.warm_up:
            return "; it lies in the warm-up, so what was kept has learned from labeled images alone"
        return ""

    @property
    def ramp_start(self) -> int:
        """The step from which the unlabeled loss counts."""
        return self.warm_up_steps

    @property
    def in_warm_up(self) -> bool:
        return self.step < self.ramp_start

    @property
    def progress(self) -> float:
        """Share of the steps after the warm-up that are done."""
        return (self.step - self.warm_up_steps) / max(1, self.epochs * self.steps_per_epoch - self.warm_up_steps)

    @property
    def current_lambda_u(self) -> float:
        """lambda_u at this step of the linear ramp."""
        ramp = self.ramp_up * (self.epochs * self.steps_per_epoch - self.warm_up_steps)
        return self.lambda_u * min(1.0, (self.step - self.ramp_start) / ramp) if ramp > 0 else self.lambda_u

    def total_loss(
        self, labeled: Tensor, of_heads: Mapping[str, Tensor], of_switches: Mapping[str, Sequence[Tensor]] | None = None
    ) -> Tensor:
        """The scalar loss, its terms logged. of_heads: each head's unlabeled loss; of_switches: terms of its switches,
        which bring their own factors."""
        unlabeled = functools.reduce(torch.add, (self.weighted(head, loss) for head, loss in of_heads.items()))
        further = [self.weighted(head, term) for head, terms in (of_switches or {}).items() for term in terms]
        accumulate, factor = self.config.trainer.accumulate, self.current_lambda_u
        for name, loss in (("labeled", labeled), ("unlabeled", unlabeled), *(("further", x) for x in further)):
            loss = loss.detach()
            self.sums.add({f"mean/loss_{name}": loss if accumulate == 1 else loss / accumulate})
        return sum(further, labeled + (unlabeled if factor == 1 else factor * unlabeled))

    def epoch_values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        values = super().epoch_values(sums)
        if self.step > self.ramp_start:
            values["train/lambda_u"] = self.current_lambda_u
        return values
