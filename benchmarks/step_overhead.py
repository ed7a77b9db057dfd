"""What a trainer's step costs beside a bare loop on the same tensors: same process, taking turns, medians.

    python benchmarks/step_overhead.py

The bare loop is what one would write by hand for one loss: normalise, forward, loss, backward, optimizer step. It is
timed twice: with torch's default optimizer, as loops are written, and with the fused one that the trainers take, which
leaves what they do beside the tensors. The trainer's is its own loop (`BaseTrainer._train_epoch`) with everything that
it does in a step: seeding, check of the loss, sums for the log, confusion matrices, stop signals, progress.
"""

from __future__ import annotations

import argparse
import copy
import functools
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
    """`backbone` and a linear layer per head, or SimCLR's projection."""

    def __init__(self, backbone: nn.Module, features: int, heads: dict[str, int]):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({name: nn.Linear(features, classes) for name, classes in heads.items()})

    def project(self) -> None:
        features = next(iter(self.heads.values())).in_features
        self.heads, self.projection = nn.ModuleDict(), nn.Linear(int(features), 32)  # type: ignore[arg-type]

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        features = self.backbone(images)
        if self.projection is not None:
            return {"projection": self.projection(features)}
        return {name: linear(features) for name, linear in self.heads.items()}


def mlp(heads: dict[str, int]) -> Net:
    """192 → 128 → 128."""
    layers = [nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return Net(nn.Sequential(*layers), 128, heads)


def small_conv(heads: dict[str, int]) -> Net:
    """Two convolutions, 3 → 16 → 32 channels, both of stride 2."""
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return Net(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 32, heads)


def conv(heads: dict[str, int]) -> Net:
    """Three convolutions, 3 → 32 → 64 → 64 channels, the first of stride 1."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Net(nn.Sequential(*layers), 64, heads)


NETWORKS: dict[str, tuple[Callable[[dict[str, int]], Net], int]] = {  # and the side of the images
    "tiny MLP": (mlp, 8),
    "small conv net": (small_conv, 32),
    "conv net": (conv, 32),
}
ONE_HEAD, EMA_DECAY = {"bangs": 2}, 0.99
TRAINERS: dict[str, dict[str, int]] = {
    "SupervisedTrainer": ONE_HEAD,
    "MultiHeadTrainer": {"mask": 3, "gender": 2, "age": 3},
    "PseudoLabelTrainer": ONE_HEAD,
    "FixMatchTrainer": ONE_HEAD,
    "MeanTeacherTrainer": ONE_HEAD,
    "SimCLRTrainer": ONE_HEAD,
}
STREAMS = {"FixMatchTrainer": ("weak", "strong"), "MeanTeacherTrainer": ("student", "teacher")}


def build(kind: str, network: str) -> BaseTrainer:
    torch.manual_seed(0)
    model = NETWORKS[network][0](TRAINERS[kind])
    if kind == "SimCLRTrainer":
        model.project()
    return build_trainer(kind, model, TRAINERS[kind], UNLABELED, {})


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
            "trainer": {
                "type": kind,
                "epochs": 10**6,
                "steps_per_epoch": 1,
                "monitor": "min train/loss",
                "ema": EMA_DECAY if kind == "MeanTeacherTrainer" else None,
            },
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
    if kind == "SimCLRTrainer":
        return {"all": {"first": images(BATCH), "second": images(BATCH), "row": torch.arange(BATCH)}}
    batch: dict[str, Any] = {"labeled": {"image": images(BATCH), "target": target, "row": torch.arange(BATCH)}}
    if kind not in ("SupervisedTrainer", "MultiHeadTrainer"):
        views = {view: images(UNLABELED) for view in STREAMS.get(kind, ("weak",))}
        batch["unlabeled"] = {**views, "row": torch.arange(UNLABELED)}
    return batch


def normalized(images: Tensor) -> Tensor:
    return (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def bare_loss(kind: str, model: nn.Module, teacher: nn.Module | None, batch: dict[str, Any]) -> Tensor:
    """By hand, as the reference implementations do it."""
    if kind == "SimCLRTrainer":
        rows = F.normalize(model(normalized(torch.cat([batch["all"]["first"], batch["all"]["second"]])))["projection"])
        similarity = (rows @ rows.T / 0.5).masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
        return F.cross_entropy(similarity, torch.arange(len(rows)).roll(BATCH))
    images, target = batch["labeled"]["image"], batch["labeled"]["target"]
    if kind in ("SupervisedTrainer", "MultiHeadTrainer"):
        logits = model(normalized(images))
        return functools.reduce(torch.add, (F.cross_entropy(logits[head], target[head]) for head in target))
    unlabeled, labels = batch["unlabeled"], target["bangs"]
    if kind == "MeanTeacherTrainer":
        assert teacher is not None
        logits = model(normalized(torch.cat([unlabeled["student"], images])))["bangs"]
        with torch.no_grad():
            wanted = teacher(normalized(unlabeled["teacher"]))["bangs"].softmax(dim=1)
        distance = F.mse_loss(logits[:UNLABELED].softmax(dim=1), wanted)
        return F.cross_entropy(logits[UNLABELED:], labels) + 50 * distance
    if kind == "PseudoLabelTrainer":
        logits = model(normalized(torch.cat([unlabeled["weak"], images])))["bangs"]
        student, of_labeled = logits[:UNLABELED], logits[UNLABELED:]
        weak = student.detach()
    else:
        with torch.no_grad():
            weak = model(normalized(unlabeled["weak"]))["bangs"]
        logits = model(normalized(torch.cat([images, unlabeled["strong"]])))["bangs"]
        of_labeled, student = logits[:BATCH], logits[BATCH:]
    confidence, pseudo = weak.softmax(dim=1).max(dim=1)
    consistency = F.cross_entropy(student, pseudo, reduction="none") * (confidence >= 0.95)
    return F.cross_entropy(of_labeled, labels) + consistency.mean()


def bare_loop(kind: str, model: nn.Module, batch: dict[str, Any], **of_optimizer: Any) -> Callable[[int], None]:
    """A function that trains a copy of `model` for so many steps."""
    model = copy.deepcopy(model).train()
    teacher = copy.deepcopy(model).requires_grad_(False) if kind == "MeanTeacherTrainer" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **of_optimizer)

    def loop(steps: int) -> None:
        for _ in range(steps):
            loss = bare_loss(kind, model, teacher, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if teacher is not None:
                with torch.no_grad():
                    for average, weight in zip(teacher.parameters(), model.parameters()):
                        average.mul_(EMA_DECAY).add_(weight, alpha=1 - EMA_DECAY)
            loss.item()

    return loop


def measure(kind: str, network: str, rounds: int, seconds: float) -> tuple[float, float, float]:
    """Median seconds of a bare step, and median ratio of the trainer's step to it within a round: with torch's default
    optimizer, and with the fused one."""
    trainer, batch = build(kind, network), batch_for(kind, network)

    def ours(steps: int) -> None:
        trainer.step, trainer.steps_per_epoch = 0, steps
        trainer._train_epoch(itertools.repeat(batch), 1)

    def timed(loop: Callable[[int], None], steps: int) -> float:
        started = CLOCK()
        loop(steps)
        return (CLOCK() - started) / steps

    loops = [bare_loop(kind, trainer.model, batch), bare_loop(kind, trainer.model, batch, fused=True), ours]
    for loop in loops:
        loop(5)
    steps = max(5, round(seconds / timed(loops[0], 5)))
    times: list[list[float]] = [[] for _ in loops]
    for number in range(rounds):
        for place in range(len(loops)):  # another order in each round
            which = (number + place) % len(loops)
            times[which].append(timed(loops[which], steps))
    default, fused, own = times
    of_default, of_fused = (statistics.median(a / b for a, b in zip(own, base)) for base in (default, fused))
    return statistics.median(default), of_default, of_fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each loop in a round")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS), metavar="NAME")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {CLOCK.__name__}, batch {BATCH}")
    print(f"{'':20} {'':16} {'bare loop,':>13} {'trainer / bare loop with':>32}")
    print(f"{'trainer':20} {'network':16} {'a step':>13} {'default optimizer':>18} {'fused':>13}")
    for kind, network in itertools.product(arguments.trainers, arguments.networks):
        bare, to_default, to_fused = measure(kind, network, arguments.rounds, arguments.seconds)
        print(f"{kind:20} {network:16} {1e3 * bare:10.2f} ms {to_default:18.2f} {to_fused:13.2f}", flush=True)


if __name__ == "__main__":
    main()
