"""What a trainer's step costs beside a bare loop on the same tensors: same process, taking turns, medians.

    python benchmarks/step_overhead.py

The bare loop is what one would write by hand for one loss: normalise, forward, loss, backward, optimizer step, with
torch's defaults. The trainer's is its own loop (`BaseTrainer._train_epoch`) with everything that it does in a step:
seeding, check of the loss, sums for the log, confusion matrices, stop signals, progress.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from base.base_model import BaseModel  # noqa: E402
from base.base_trainer import BaseTrainer  # noqa: E402
from base.parts import Parts  # noqa: E402
from trainer.build import build_optimizer  # noqa: E402
from trainer.components import KINDS  # noqa: E402
from utils.config import Component, config_from_dict  # noqa: E402
from utils.distributed import World  # noqa: E402

BATCH, UNLABELED = 32, 64
# On a machine that others use too, the processor's time says more than the clock; it counts one thread only.
CLOCK = time.perf_counter if torch.get_num_threads() > 1 else time.process_time


class Net(BaseModel):
    """`body` and a linear layer per head."""

    def __init__(self, body: nn.Module, features: int, heads: dict[str, int]):
        super().__init__()
        self.body = body
        self.heads = nn.ModuleDict({name: nn.Linear(features, classes) for name, classes in heads.items()})

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        features = self.body(images)
        return {name: linear(features) for name, linear in self.heads.items()}


def mlp(heads: dict[str, int]) -> Net:
    """192 → 128 → 128."""
    layers = [nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return Net(nn.Sequential(*layers), 128, heads)


def conv(heads: dict[str, int]) -> Net:
    """Three convolutions at 32 x 32 pixels."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Net(nn.Sequential(*layers), 64, heads)


NETWORKS: dict[str, tuple[Callable[[dict[str, int]], Net], int]] = {"tiny MLP": (mlp, 8), "small conv net": (conv, 32)}
TRAINERS: dict[str, dict[str, int]] = {
    "SupervisedTrainer": {"bangs": 2},
    "MultiHeadTrainer": {"mask": 3, "gender": 2, "age": 3},
    "FixMatchTrainer": {"bangs": 2},
}


def build(kind: str, network: str) -> BaseTrainer:
    torch.manual_seed(0)
    return build_trainer(kind, NETWORKS[network][0](TRAINERS[kind]), TRAINERS[kind], UNLABELED, {})


def build_trainer(
    kind: str, model: BaseModel, heads: dict[str, int], unlabeled: int, args: dict[str, Any]
) -> BaseTrainer:
    """A trainer around `model`, without data or folder, whose epoch has one step."""
    classes = {name: tuple(map(str, range(count))) for name, count in heads.items()}
    config = config_from_dict(
        {
            "name": "bench",
            "dataset": {"type": "LabelCSV"},
            "arch": {"type": "FaceClassifier"},
            "optimizer": {"type": "AdamW", "args": {"lr": 1e-4}},
            "trainer": {"type": kind, "epochs": 10**6, "steps_per_epoch": 1, "monitor": "max train/macro_f1"},
            "logger": {"console": False},
        },
        "benchmark",
    )
    loss = partial(KINDS["loss"].find("cross_entropy", "loss"), class_counts=None)
    rows = SimpleNamespace(rows=torch.arange(unlabeled).numpy())
    data: Any = SimpleNamespace(
        classes=classes,
        class_counts={head: torch.ones(len(names)) for head, names in classes.items()},
        images_per_batch=BATCH,
        size=lambda split: 1,
        streams={"unlabeled": (rows, unlabeled)},
    )
    parts = Parts(
        config=config,
        model=model,
        data=data,
        losses=dict.fromkeys(classes, (loss, 1.0)),
        metrics={head: {"macro_f1": KINDS["metric"].find("macro_f1", "metrics")} for head in classes},
        optimizer=build_optimizer(config, model),
        scheduler=None,
        normalization=((0.5,) * 3, (0.5,) * 3),
        device=torch.device("cpu"),
        dtype=torch.float32,
        world=World(),
        steps_per_epoch=1,
        environment={},
    )
    made = KINDS["trainer"].build(Component(type=kind, args=args), "trainer", KINDS, parts=parts)
    made._stop = SimpleNamespace(received=None)
    return made


def batch_for(kind: str, network: str) -> dict[str, Any]:
    side, generator = NETWORKS[network][1], torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)

    target = {h: torch.randint(0, n, (BATCH,), generator=generator) for h, n in TRAINERS[kind].items()}
    batch: dict[str, Any] = {"labeled": {"image": images(BATCH), "target": target, "row": torch.arange(BATCH)}}
    if kind == "FixMatchTrainer":
        unlabeled = {"weak": images(UNLABELED), "strong": images(UNLABELED), "row": torch.arange(UNLABELED)}
        batch["unlabeled"] = unlabeled
    return batch


def bare_step(kind: str, model: nn.Module, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """By hand, as the reference implementations do it."""

    def normalized(images: Tensor) -> Tensor:
        return (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5

    labeled = batch["labeled"]
    if kind == "FixMatchTrainer":
        unlabeled = batch["unlabeled"]
        with torch.no_grad():
            weak = model(normalized(unlabeled["weak"]))["bangs"]
        logits = model(normalized(torch.cat([labeled["image"], unlabeled["strong"]])))["bangs"]
        confidence, target = weak.softmax(dim=1).max(dim=1)
        strong = F.cross_entropy(logits[BATCH:], target, reduction="none")
        loss = F.cross_entropy(logits[:BATCH], labeled["target"]["bangs"])
        loss = loss + (strong * (confidence >= 0.95)).mean()
    else:
        logits = model(normalized(labeled["image"]))
        loss = sum(F.cross_entropy(logits[head], target) for head, target in labeled["target"].items())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()


def measure(kind: str, network: str, rounds: int, seconds: float) -> tuple[float, float]:
    """Median seconds of a bare step, and median ratio of the trainer's step to it within a round."""
    trainer, batch = build(kind, network), batch_for(kind, network)
    model = copy.deepcopy(trainer.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def bare(steps: int) -> float:
        started = CLOCK()
        for _ in range(steps):
            bare_step(kind, model, batch, optimizer)
        return (CLOCK() - started) / steps

    def ours(steps: int) -> float:
        trainer.step, trainer.steps_per_epoch = 0, steps
        started = CLOCK()
        trainer._train_epoch(itertools.repeat(batch), 1)
        return (CLOCK() - started) / steps

    bare(5), ours(5)
    steps = max(5, round(seconds / bare(5)))
    times = [(ours(steps), bare(steps))[::-1] if n % 2 else (bare(steps), ours(steps)) for n in range(rounds)]
    return statistics.median(b for b, _ in times), statistics.median(o / b for b, o in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each loop in a round")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {CLOCK.__name__}, batch {BATCH}")
    print(f"{'trainer':20} {'network':16} {'bare step':>10} {'trainer / bare':>15}")
    for kind, network in itertools.product(TRAINERS, NETWORKS):
        bare, ratio = measure(kind, network, arguments.rounds, arguments.seconds)
        print(f"{kind:20} {network:16} {1e3 * bare:7.2f} ms {ratio:15.2f}", flush=True)


if __name__ == "__main__":
    main()
