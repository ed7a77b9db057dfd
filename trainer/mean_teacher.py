"""Mean Teacher (Tarvainen & Valpola 2017): the network agrees with its own averaged weights on another view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.parts import Parts
from trainer.pseudo_label.weak_batch import one_hot
from trainer.ramp_up import RampUpTrainer
from utils.errors import ConfigError
from utils.sums import exact


class MeanTeacherTrainer(RampUpTrainer):
    """L = L_labeled + lambda_u · mean over unlabeled rows and classes of (softmax student - softmax teacher)².

    The teacher is the average that `trainer.ema` keeps and that is evaluated. Both see a weak view of their own. The
    teacher is in training mode, as in the paper: batch norm uses the batch, the head has no dropout.
    warm_up_epochs: labeled rows only. ramp_up: share of the steps after them in which lambda_u grows linearly from 0.
    """

    streams: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "labeled": {"image": "train"},
        "unlabeled": {"student": "weak", "teacher": "weak"},
    }

    def __init__(self, parts: Parts, *, lambda_u: float = 50.0, ramp_up: float = 0.4, warm_up_epochs: int = 0):
        super().__init__(parts, lambda_u=lambda_u, ramp_up=ramp_up, warm_up_epochs=warm_up_epochs)
        if self.ema is None:
            raise ConfigError(
                f"{self.config.where('trainer.ema')}: MeanTeacherTrainer's teacher is the average of the weights; "
                "give its decay, such as 0.99"
            )
        self.teacher = self.ema.model.train()

    def training_step(self, batch: Batch) -> Tensor:
        if self.in_warm_up:
            return super().training_step(batch)
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        student, count = unlabeled["student"], len(unlabeled["student"])
        logits = self.network(self.normalize(torch.cat([student, labeled["image"]])))
        with torch.no_grad():
            of_teacher = self.teacher(self.normalize(unlabeled["teacher"]), clean=count)
        unsupervised = {}
        for head in self.classes:
            target = of_teacher[head].float().softmax(dim=1)
            unsupervised[head] = (logits[head][:count].float().softmax(dim=1) - target).square().mean()
            hidden = unlabeled.get("hidden", {}).get(head)
            self.sums.add_count(f"teacher/{head}", sums_of_teacher, target, *(() if hidden is None else (hidden,)))
        of_labeled = {head: rows[count:] for head, rows in logits.items()}
        return self.total_loss(self.supervised_loss(of_labeled, labeled["target"]), unsupervised)

    def epoch_values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        values = super().epoch_values(sums)
        for head, classes in self.classes.items():
            of_teacher = f"teacher/{head}/"
            if f"{of_teacher}rows" not in sums:
                continue
            rows = sums[f"{of_teacher}rows"]
            values[f"train/{head}/confidence"] = float(sums[f"{of_teacher}confidence"] / rows)
            for name, count in zip(classes, sums[f"{of_teacher}predicted"]):
                values[f"train/{head}/predicted/{name}"] = float(count / rows)
            if sums.get(f"{of_teacher}known", torch.zeros(())) > 0:
                values[f"train/{head}/pseudo_accuracy"] = float(sums[f"{of_teacher}right"] / sums[f"{of_teacher}known"])
        return values


def sums_of_teacher(target: Tensor, hidden: Tensor | None = None) -> dict[str, Tensor]:
    """What the teacher says: target [U, C] probabilities; hidden: int64 [U] labels kept aside, −1 for none."""
    confidence, named = target.max(dim=1)
    predicted = one_hot(named, target.shape[1]).sum(dim=0)
    sums = {"rows": predicted.sum(), "predicted": predicted, "confidence": exact(confidence).sum()}
    if hidden is not None:
        sums |= {"known": (hidden >= 0).sum(), "right": (hidden == named).sum()}
    return sums
