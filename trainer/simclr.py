"""SimCLR (Chen et al. 2020): a backbone learns, without labels, which two views show the same image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from base.parts import Parts
from trainer.contrastive import similarities
from trainer.linear_probe import fit_heads
from trainer.pseudo_label.processes import gather_with_gradient, same_in_all
from utils.distributed import same_buffers
from utils.errors import ConfigError


class SimCLRTrainer(BaseTrainer):
    """NT-Xent of two strong views of all training images, labeled or not, behind a projection that is not used later.

    Labels, where there are any, never reach the backbone: after each epoch the heads are fitted to its features
    (logistic regression, balanced classes), and `valid/…` are their scores. Over several processes every image is
    compared with those of all.
    temperature: of the softmax over similarities; a lower one looks more at the images that are hardest to tell apart.
    """

    streams: ClassVar[Mapping[str, Mapping[str, str]]] = {"all": {"first": "strong", "second": "strong"}}
    trains_heads: ClassVar[tuple[str, ...]] = ("simclr",)

    def __init__(self, parts: Parts, *, temperature: float = 0.5):
        if temperature <= 0:
            raise ValueError("temperature must be above 0")
        super().__init__(parts)
        if self.config.data_loader.batch_size < 2:
            raise ConfigError(
                f"{self.config.where('data_loader.batch_size')}: SimCLRTrainer compares the images of a batch; give at "
                "least 2"
            )
        if not any(parameter.requires_grad for parameter in self.model.get_submodule("backbone").parameters()):
            raise ConfigError(
                f"{self.config.where('arch.args.freeze')}: SimCLRTrainer trains the backbone; set it to null"
            )
        self.temperature = temperature
        self.labeled_heads = [head for head, counts in self.data.class_counts.items() if counts.sum() > 0]
        self.probe = nn.Module()
        self.probe.register_buffer("before", torch.tensor(math.nan))

    def training_step(self, batch: Batch) -> Tensor:
        first, second = batch["all"]["first"], batch["all"]["second"]
        rows = self.network(self.normalize(torch.cat([first, second])))["projection"]
        of_first, of_second = (gather_with_gradient(view) for view in rows.float().split(len(first)))
        similarity, partner = similarities(of_first, of_second, self.temperature)
        found = (similarity.detach().argmax(dim=1) == partner).float().mean()
        self.sums.add({"mean/contrastive_accuracy": found / self.config.trainer.accumulate})
        return same_in_all(F.cross_entropy(similarity, partner))

    def train(self) -> None:
        if self.step == 0:
            self._fit_heads()
            values = self.scoring.evaluate(self.evaluated_model, self.data.evaluation_batches("valid"), "valid")
            self.probe.get_buffer("before").fill_(values.get(self._score, math.nan))
        super().train()

    def _finish_epoch(self) -> None:
        self._fit_heads()
        super()._finish_epoch()

    def _fit_heads(self) -> None:
        if self.labeled_heads:
            same_buffers(self.model, self.evaluated_model)
            batches = self.data.evaluation_batches("train")
            fit_heads(self.evaluated_model, self.labeled_heads, batches, self.normalize)
            self.model.get_submodule("heads").load_state_dict(self.evaluated_model.get_submodule("heads").state_dict())

    @property
    def _score(self) -> str:
        """The value that tells what the features are worth."""
        measured = [name for of_head in self.parts.metrics.values() for name in of_head]
        return self.monitor.name if self.monitor.name.startswith("valid/") else f"valid/{[*measured, 'macro_f1'][0]}"

    def value_names(self) -> set[str]:
        valid = {name for name in super().value_names() if name.startswith("valid/") and self.classes}
        return {"train/loss", "train/contrastive_accuracy", *valid}

    def epoch_notes(self, sums: dict[str, Tensor]) -> list[str]:
        before = float(self.probe.get_buffer("before"))
        return (
            []
            if math.isnan(before)
            else [f"logistic regression on the features before the first step: {self._score} {before:.4f}"]
        )

    def trainer_state(self) -> nn.Module:
        return self.probe
