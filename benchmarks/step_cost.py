"""What the switches of FixMatch cost: the time of a training step against that of plain FixMatch, in one process.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --backbone resnet18 --size 64 --rounds 15

Every combination takes a step in turn, over and over, on the same batch; a ratio is the median over the rounds of
(its step / plain FixMatch's step of the same round), so that a machine that slows down slows down both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from base.base_trainer import BaseTrainer  # noqa: E402
from base.parts import Parts  # noqa: E402
from model.classifier import FaceClassifier  # noqa: E402
from trainer.build import build_optimizer  # noqa: E402
from trainer.components import KINDS  # noqa: E402
from utils.config import Component, config_from_dict  # noqa: E402
from utils.distributed import World  # noqa: E402

CLASSES = {"label": ("common", "rare")}
UNLABELED = 2000
SWITCHES: dict[str, dict[str, Any]] = {
    "plain FixMatch": {},
    "plain FixMatch, again": {},
    "flexmatch": {"threshold": "flexmatch"},
    "freematch": {"threshold": "freematch"},
    "softmatch + uniform": {"threshold": "softmatch", "align": "uniform"},
    "adamatch + estimated": {"threshold": "adamatch", "align": "estimated"},
    "prior": {"align": "prior"},
    "crest_plus": {"align": "crest_plus"},
    "logit_adjustment": {"debias": "logit_adjustment"},
    "debiaspl": {"debias": "debiaspl"},
    "simpro": {"debias": "simpro"},
    "class_weight saw": {"class_weight": "saw"},
    "abc": {},
    "softmatch + estimated + logit_adjustment + saw": {
        "threshold": "softmatch", "align": "estimated", "debias": "logit_adjustment", "class_weight": "saw",
    },
    "freematch + estimated + simpro + saw + abc": {
        "threshold": "freematch", "align": "estimated", "debias": "simpro", "class_weight": "saw",
    },
    "flexmatch + crest_plus + debiaspl + saw + abc": {
        "threshold": "flexmatch", "align": "crest_plus", "debias": "debiaspl", "class_weight": "saw",
    },
}  # fmt: skip


class OneBatch:
    """Training data that is a batch of noise: what is timed is the step, not the data path."""

    images_per_batch = 1
    classes = CLASSES

    def __init__(self) -> None:
        self.class_counts = {"label": torch.tensor([90.0, 10.0])}
        rows = type("Rows", (), {"rows": range(UNLABELED)})
        self.streams = {"unlabeled": (rows, 1)}

    def size(self, split: str) -> int:
        return 1


def make_batch(size: int, labeled: int, ratio: int) -> dict[str, dict[str, Any]]:
    draw = partial(torch.randint, 0, 256, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = {name: draw((n, size, size, 3)) for name, n in (("image", labeled), ("weak", labeled * ratio))}
    rows = torch.randperm(UNLABELED, generator=torch.Generator().manual_seed(1))[: labeled * ratio]
    return {
        "labeled": {"image": images["image"], "target": {"label": torch.arange(labeled) % 2}, "row": rows[:labeled]},
        "unlabeled": {"weak": images["weak"], "strong": images["weak"].flip(2), "row": rows},
    }


def make_trainer(arguments: argparse.Namespace, switches: dict[str, Any], head: str) -> BaseTrainer:
    torch.manual_seed(0)
    model = FaceClassifier({"label": 2}, backbone=arguments.backbone, head="abc" if head == "abc" else "plain")
    model = model.to(memory_format=torch.channels_last).to(arguments.device)
    config = config_from_dict(
        {
            "name": "step_cost",
            "dataset": {"type": "LabelCSV"},
            "arch": {"type": "FaceClassifier"},
            "optimizer": {"type": "AdamW", "args": {"lr": 1e-4}},
            "trainer": {"type": "FixMatchTrainer", "args": switches, "epochs": 10, "ema": 0.99},
        },
        "step_cost",
    )
    parts = Parts(
        config=config,
        model=model,
        data=OneBatch(),  # type: ignore[arg-type]
        losses={"label": (partial(KINDS["loss"].find("cross_entropy", "loss"), class_counts=None), 1.0)},
        metrics={"label": {"macro_f1": KINDS["metric"].find("macro_f1", "metrics")}},
        optimizer=build_optimizer(config, model),
        scheduler=None,
        normalization=((0.5,) * 3, (0.5,) * 3),
        device=torch.device(arguments.device),
        dtype=torch.float32,
        world=World(),
        steps_per_epoch=1000,
        environment={},
    )
    component = Component(type=config.trainer.type, args=config.trainer.args)
    trainer = KINDS["trainer"].build(component, "trainer", KINDS, parts=parts)
    trainer.network.train()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_resnet", help="timm's name")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=16, help="labeled images")
    parser.add_argument("--ratio", type=int, default=4, help="unlabeled images for each labeled one")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each combination")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: time of this process alone")
    arguments = parser.parse_args()
    # A shared machine takes the processor away in the middle of a step; the process's own time does not see it.
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    batch = make_batch(arguments.size, arguments.batch_size, arguments.ratio)
    trainers = {name: make_trainer(arguments, args, name.rpartition(" ")[2]) for name, args in SWITCHES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(-2, arguments.rounds):
        first = number % len(trainers)  # another order in each round, as a place in it may be faster
        for name in [*trainers][first:] + [*trainers][:first]:
            started = clock()
            trainers[name].train_on(batch)
            if arguments.device.startswith("cuda"):
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append(clock() - started)
    plain = seconds["plain FixMatch"]
    print(f"{arguments.backbone}, {arguments.size} px, {arguments.batch_size} labeled: median step of plain FixMatch "
          f"{statistics.median(plain):.4f} s ({arguments.clock})")  # fmt: skip
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, plain))
        print(f"{ratio:6.3f}  {name}")


if __name__ == "__main__":
    main()
