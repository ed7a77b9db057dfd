"""Scores counted over a whole split: sums on the device, never an average of batch averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean as mean

import torch
from torch import Tensor, nn

from base.base_dataset import Batch, to_device
from base.joint_score import JointScore
from base.parts import Parts
from utils.sums import Sums, confusion_matrix


class Normalize:
    """uint8 [N, h, w, 3] -> float [N, 3, h, w] in `memory_format`; mean, std: of images in [0, 1].

    NHWC images are channels-last tensors without a copy, which most convolutions are fastest on.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device):
        self.mean = torch.tensor(mean, device=device) * 255
        self.scale = 1 / (torch.tensor(std, device=device) * 255)
        self.memory_format = torch.channels_last
        self._of_line: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim == 2:  # features of a frozen backbone
            return images
        number, height, width, _ = images.shape
        if width not in self._of_line:
            with torch.inference_mode(False):
                self._of_line[width] = self.mean.repeat(width), self.scale.repeat(width)
        mean, scale = self._of_line[width]
        # Whole lines of an image at once: three channels alone are too few for vector instructions.
        lines = images.reshape(number, height, -1).to(torch.float32, copy=True).sub_(mean).mul_(scale)
        return lines.view(images.shape).permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)


class Scoring:
    """The losses and metrics of a run's heads."""

    def __init__(self, parts: Parts, normalize: Normalize):
        self.parts, self.normalize = parts, normalize
        self.classes = dict(parts.data.classes)
        self.joint = JointScore(parts)
        counts = {head: parts.data.class_counts[head].double().clamp(min=1) for head in self.classes}
        self.log_prior = {head: (of_head / of_head.sum()).log().tolist() for head, of_head in counts.items()}
        strength = parts.config.trainer.evaluation_prior
        self.offsets = {h: strength * torch.tensor(p, device=parts.device) for h, p in self.log_prior.items()}

    def names(self) -> set[str]:
        """Every value that a log row has whatever the trainer is."""
        found = {"train/loss", "valid/loss"}
        for split in ("train", "valid"):
            for head, metrics in self.parts.metrics.items():
                found |= {f"{split}/{name}" for name in metrics} | {f"{split}/{head}/{name}" for name in metrics}
        return found | self.joint.names("valid")

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, batches: Iterable[Batch], split: str) -> dict[str, float]:
        """`SPLIT/loss`, `SPLIT/METRIC` (means over heads), `SPLIT/HEAD/METRIC`, `SPLIT/joint/METRIC` and
        `SPLIT/HEAD/recall/CLASS`, the last for classes that occur among the labels; nothing if there are no batches."""
        sums = Sums(self.parts.device)
        was_training = model.training
        model.eval()
        for batch in batches:
            faces = to_device(batch, self.parts.device)["eval"]
            with self.autocast():
                logits = model(self.normalize(faces["image"]))
            for head, target in faces["target"].items():
                sums.add(self.count(head, logits[head], target))
            if self.joint.metrics:
                decided = {head: self.decide(head, logits[head]) for head in self.classes}
                sums.add(self.joint.count(decided, faces["target"]))
        model.train(was_training)
        totals = sums.read()
        if not totals:
            return {}
        confusions = {head: totals[f"confusion/{head}"] for head in self.classes}
        losses = [float(totals[f"loss/{head}"] / totals[f"rows/{head}"]) for head in self._judged(confusions)]
        values = {f"{split}/loss": mean(losses)} if losses else {}
        values |= {**self.metrics(split, confusions), **self.joint.values(split, totals)}
        for head, confusion in confusions.items():
            for name, row, found in zip(self.classes[head], confusion, confusion.diagonal()):
                if float(row.sum()) > 0:
                    values[f"{split}/{head}/recall/{name}"] = float(found / row.sum())
        return values

    def autocast(self) -> AbstractContextManager:
        dtype = self.parts.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.parts.device.type, dtype)

    def count(self, head: str, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Sums of one head's labeled rows: confusion matrix, loss and rows. logits [N, C], target int64 [N]."""
        loss, rows = self.loss(head, logits, target)
        return {f"confusion/{head}": self.confusion(head, logits, target), f"loss/{head}": loss, f"rows/{head}": rows}

    def loss(self, head: str, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the loss over one head's labeled rows, and how many there are."""
        function, _ = self.parts.losses[head]
        return function(logits.float(), target).sum(), (target >= 0).sum()  # the loss is 0 where there is no label

    def confusion(self, head: str, logits: Tensor, target: Tensor) -> Tensor:
        """Counts [C, C] of one head's labeled rows."""
        return confusion_matrix(self.decide(head, logits), target, len(self.classes[head]))

    def decide(self, head: str, logits: Tensor) -> Tensor:
        """Predicted class int64 [N] of logits [N, C], with `trainer.evaluation_prior`."""
        return (logits + self.offsets[head]).argmax(1)

    def metrics(self, split: str, confusions: Mapping[str, Tensor]) -> dict[str, float]:
        """Values from confusion matrices {head: [C, C]}: each metric's mean over the heads that are learned and have
        labels here, then each head's own."""
        of_heads: dict[str, float] = {}
        by_name: dict[str, list[float]] = {}
        judged = self._judged(confusions)
        for head, confusion in confusions.items():
            for name, metric in self.parts.metrics[head].items():
                value = float(metric(confusion))
                of_heads[f"{split}/{head}/{name}"] = value
                by_name.setdefault(f"{split}/{name}", []).extend([value] if head in judged else [])
        return {**{name: mean(values) if values else math.nan for name, values in by_name.items()}, **of_heads}

    def _judged(self, confusions: Mapping[str, Tensor]) -> list[str]:
        """Heads whose scores say something about the run."""
        learned = self.parts.learned
        return [h for h, confusion in confusions.items() if h in learned and float(confusion.sum())]
