"""A FixMatch step with every lever against the step as the reference implementations write it, in one process.

    python benchmarks/fixmatch_step.py

Theirs: fp32, contiguous memory, labeled, weak and strong images in one forward pass with gradients, torch's default
optimizer. Ours: this project's trainer and loop in the settings named. Batches are the same tensors; the variants take
turns, and the median of each one's ratio to the first within a round counts. bf16 is tried where the processor computes
in it. `selective` is shown for shares of unlabeled rows that pass: a threshold is put in place that passes so many.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from base.base_trainer import BaseTrainer  # noqa: E402
from base.speed import Settings, use  # noqa: E402
from benchmarks.step_overhead import CLOCK, build_trainer  # noqa: E402
from model.classifier import FaceClassifier  # noqa: E402
from trainer.pseudo_label.threshold import Threshold  # noqa: E402
from trainer.pseudo_label.weak_batch import WeakBatch  # noqa: E402
from utils.memory import keep_freed_memory  # noqa: E402

FP32, BF16 = Settings(torch.float32), Settings(torch.bfloat16)


def batch_of(size: int, labeled: int, ratio: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)

    target = {"bangs": torch.randint(0, 2, (labeled,), generator=generator)}
    unlabeled = {"weak": images(labeled * ratio), "strong": images(labeled * ratio)}
    return {
        "labeled": {"image": images(labeled), "target": target, "row": torch.arange(labeled)},
        "unlabeled": {**unlabeled, "row": torch.arange(labeled * ratio)},
    }


def by_hand(backbone: str, batch: dict[str, Any]) -> Callable[[], None]:
    """One concatenated forward pass, as in kekmodel's and TorchSSL's FixMatch."""
    torch.manual_seed(0)
    model = FaceClassifier({"bangs": 2}, backbone=backbone, dropout=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    labeled, unlabeled = batch["labeled"], batch["unlabeled"]
    count = len(labeled["image"])
    images = torch.cat([labeled["image"], unlabeled["weak"], unlabeled["strong"]]).permute(0, 3, 1, 2).contiguous()

    def step() -> None:
        logits = model((images.float() - 127.5) / 127.5)["bangs"]
        weak, strong = logits[count:].chunk(2)
        confidence, target = weak.detach().softmax(dim=1).max(dim=1)
        of_strong = F.cross_entropy(strong, target, reduction="none") * (confidence >= 0.95)
        loss = F.cross_entropy(logits[:count], labeled["target"]["bangs"]) + of_strong.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class Share(Threshold):
    """Passes the first rows of every step, whatever their confidence."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, batch: WeakBatch) -> torch.Tensor:
        return (torch.arange(len(batch.probs)) < self.share * len(batch.probs)).float()

    def per_class(self, classes: int) -> torch.Tensor:
        return torch.full((classes,), 0.95)


def ours(
    backbone: str,
    batch: dict[str, Any],
    settings: Settings,
    share: float | None = None,
    frozen: bool = False,
    **args: Any,
) -> Callable[[], None]:
    """share: of the unlabeled rows that pass; None: as the threshold has it. frozen: batch norm statistics."""
    torch.manual_seed(0)
    norm = "frozen" if frozen else "train"
    model = FaceClassifier({"bangs": 2}, backbone=backbone, dropout=0.0, batch_norm=norm)  # type: ignore[arg-type]
    trainer: BaseTrainer = build_trainer("FixMatchTrainer", model, {"bangs": 2}, len(batch["unlabeled"]["row"]), args)
    if share is not None:
        trainer.labeler("bangs").threshold = Share(share)  # type: ignore[attr-defined]
    use(trainer, settings)

    def step() -> None:
        trainer.step = 0
        trainer._train_epoch(itertools.repeat(batch), 1)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--ratio", type=int, default=4, help="unlabeled images for each labeled one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.75, 0.5, 0.25, 0.0], help="that pass, selective")
    arguments = parser.parse_args()
    keep_freed_memory()
    batch = batch_of(arguments.size, arguments.batch_size, arguments.ratio)
    separate: dict[str, Any] = {"weak_forward": "separate"}
    contiguous = replace(FP32, memory_format="contiguous")
    steps = {
        "by hand: fp32, contiguous, one forward": by_hand(arguments.backbone, batch),
        "fp32, contiguous, joint": ours(arguments.backbone, batch, contiguous, weak_forward="joint"),
        "fp32, channels-last, joint": ours(arguments.backbone, batch, FP32, weak_forward="joint"),
        "fp32, channels-last, weak without gradient": ours(arguments.backbone, batch, FP32, **separate),
    }
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        steps["bf16, channels-last, weak without gradient"] = ours(arguments.backbone, batch, BF16, **separate)
    frozen = "fp32, channels-last, frozen batch norm"
    steps[frozen] = ours(arguments.backbone, batch, FP32, frozen=True, **separate)
    for share in arguments.shares:
        made = ours(arguments.backbone, batch, FP32, share, frozen=True, selective=True)
        steps[f"{frozen}, selective, {share:.0%} pass"] = made
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 1):
        for name, step in steps.items():
            started = CLOCK()
            step()
            if number:  # the first round warms up
                times[name].append(CLOCK() - started)
    first, *_ = times.values()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {CLOCK.__name__}; "
        f"{arguments.backbone} at {arguments.size} pixels"
    )
    for name, taken in times.items():
        ratio = statistics.median(own / base for own, base in zip(taken, first))
        print(f"{ratio:5.2f}  {name:58} {statistics.median(taken):.3f} s")


if __name__ == "__main__":
    main()
