"""PseudoLabelTrainer and MeanTeacherTrainer: their formulas, partly labeled rows, processes, resuming."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base.base_model import BaseModel
from tests import conftest
from tests.test_training import write_config
from utils.distributed import World
from utils.errors import ConfigError

CLASSES = {"hue": ("blue", "red"), "side": ("a", "b", "c")}
BASELINES = ["PseudoLabelTrainer", "MeanTeacherTrainer"]


class TwoHeads(BaseModel):
    """Logits of 2 x 2 pictures, after a layer that rows share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(12, 8)
        self.heads = nn.ModuleDict({head: nn.Linear(8, len(names)) for head, names in CLASSES.items()})

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        features = self.body(images.flatten(1)).tanh()
        return {head: 3 * linear(features) for head, linear in self.heads.items()}


@pytest.fixture
def start(make_trainer):
    def start(kind: str, ema: float | None = 0.9, **args: Any):
        trainer = make_trainer(
            TwoHeads(),
            classes=CLASSES,
            trainer={"type": kind, "args": args, "epochs": 2, "steps_per_epoch": 5, "ema": ema},
            optimizer={"type": "SGD", "args": {"lr": 0.5, "momentum": 0.9}},
        )
        trainer.normalize = lambda images: images
        trainer.network.train()
        return trainer

    return start


def batch(step: int) -> dict[str, dict[str, Any]]:
    """Rows labeled for one head, the other, both and none."""
    rng = torch.Generator().manual_seed(step)
    hue, side = torch.tensor([0, 1, -1, -1, 1, 0, 1, 0]), torch.tensor([-1, 0, 2, -1, 1, 2, 0, 1])
    image, weak, other = (torch.randn(n, 3, 2, 2, generator=rng) for n in (8, 12, 12))
    return {
        "labeled": {"image": image, "target": {"hue": hue, "side": side}},
        "unlabeled": {"weak": weak, "strong": other, "student": weak, "teacher": other},
    }


def labeled_loss(logits: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
    losses = [F.cross_entropy(logits[head], labels, ignore_index=-1) for head, labels in target.items()]
    return torch.stack(losses).sum()


def test_pseudo_label_is_lees_loss_of_every_head(start):
    trainer, data = (
        start("PseudoLabelTrainer", threshold={"type": "fixed", "args": {"value": 0.7}}, lambda_u=0.5),
        batch(0),
    )
    logits, of_weak = (trainer.model(images) for images in (data["labeled"]["image"], data["unlabeled"]["weak"]))
    expected = labeled_loss(logits, data["labeled"]["target"])
    trainer.ramp_up = 0.0
    for z in of_weak.values():
        confidence, target = z.softmax(1).max(1)
        rows = F.cross_entropy(z, target, reduction="none") * (confidence >= 0.7)
        assert 0 < int((confidence >= 0.7).sum()) < 12
        expected = expected + 0.5 * rows.sum() / 12
    torch.testing.assert_close(trainer.training_step(data), expected)


def test_the_teacher_is_the_average_and_differs_from_the_student(start):
    """A public implementation sets the student's logits to the teacher's: its loss is 0 and nothing is learned."""
    trainer = start("MeanTeacherTrainer", lambda_u=10.0, ramp_up=0.0)
    data = batch(0)
    for step in range(3):
        trainer.train_on(batch(step))
    teacher = copy.deepcopy(trainer.ema.model)
    assert all(not torch.equal(a, b) for a, b in zip(teacher.parameters(), trainer.model.parameters()))
    expected = labeled_loss(trainer.model(data["labeled"]["image"]), data["labeled"]["target"])
    consistency = torch.zeros(())
    for head, z in trainer.model(data["unlabeled"]["student"]).items():
        target = teacher(data["unlabeled"]["teacher"])[head].softmax(1)
        consistency = consistency + ((z.softmax(1) - target.detach()) ** 2).mean()
    assert consistency.item() > 1e-3
    torch.testing.assert_close(trainer.training_step(data), expected + 10 * consistency)
    assert all(parameter.grad is None for parameter in trainer.ema.model.parameters())


@pytest.mark.parametrize("kind", BASELINES)
def test_the_unlabeled_loss_has_a_gradient_and_rows_without_label_count(start, kind):
    found = []
    for lambda_u in (0.0, 1.0):
        trainer = start(kind, lambda_u=lambda_u, ramp_up=0.0, **({} if kind[0] == "M" else {"threshold": "softmatch"}))
        data = batch(0)
        data["labeled"]["target"] = {head: torch.full((8,), -1) for head in CLASSES}
        trainer.training_step(data).backward()
        found.append([p.grad.clone() for p in trainer.model.parameters()])
    assert all(not g.any() for g in found[0]) and all(g.abs().max() > 1e-4 for g in found[1])


def test_a_mean_teacher_needs_an_average(start):
    with pytest.raises(ConfigError, match=r"trainer\.ema: MeanTeacherTrainer's teacher is the average of the weights"):
        start("MeanTeacherTrainer", ema=None)


# Several processes ---------------------------------------------------------------------------------------------------


def after_four_steps(kind: str, rank: int = 0, size: int = 1) -> list[Tensor]:
    make = conftest.make_trainer.__wrapped__  # type: ignore[attr-defined]
    trainer = make()(
        TwoHeads(),
        classes=CLASSES,
        trainer={"type": kind, "args": {"lambda_u": 2.0}, "epochs": 2, "steps_per_epoch": 3, "ema": 0.9},
        optimizer={"type": "SGD", "args": {"lr": 0.1}},
    )
    trainer.normalize = lambda images: images
    if size > 1:
        trainer.network = DistributedDataParallel(trainer.model)
    for step in range(4):
        data = batch(step)
        data["labeled"]["target"] = {"hue": torch.arange(8) // 2 % 2, "side": torch.arange(8) // 2 % 3}
        for stream in (*data.values(), data["labeled"]["target"]):
            stream.update({name: rows[rank::size] for name, rows in stream.items() if isinstance(rows, Tensor)})
        trainer.train_on(data)
    return [p.detach().clone() for p in [*trainer.model.parameters(), *trainer.ema.model.parameters()]]


def process(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    torch.save({kind: after_four_steps(kind, rank, size) for kind in BASELINES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    mp.start_processes(process, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind in BASELINES:
        for alone, one, two in zip(after_four_steps(kind), found[0][kind], found[1][kind]):
            assert torch.equal(one, two)
            torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-6)


def after_sparse_steps(weighting: str, accumulate: int = 1, rank: int = 0, size: int = 1) -> list[Tensor]:
    """Four steps on rows of which the second head knows few, and only in the first half."""
    make = conftest.make_trainer.__wrapped__  # type: ignore[attr-defined]
    trainer = make()(
        TwoHeads(),
        classes=CLASSES,
        trainer={"type": "MultiHeadTrainer", "args": {"weighting": weighting}, "accumulate": accumulate, "epochs": 4},
        optimizer={"type": "SGD", "args": {"lr": 0.5}},
    )
    trainer.normalize = lambda images: images
    if size > 1:
        trainer.world, trainer.network = World(rank, size, rank), DistributedDataParallel(trainer.model)
    for step in range(4):
        image = batch(step)["labeled"]["image"]
        target = {"hue": torch.arange(8) // 2 % 2, "side": torch.tensor([0, -1, 2, -1, -1, -1, -1, -1])}
        parts = torch.arange(8)[rank::size].chunk(accumulate)
        batches = [
            {"labeled": {"image": image[p], "target": {h: t[p] for h, t in target.items()}, "row": p}} for p in parts
        ]
        trainer.train_on(*batches)
    state = trainer.uncertainty.log_variances if trainer.uncertainty is not None else torch.zeros(2)
    return [*(p.detach().clone() for p in trainer.model.parameters()), state.clone()]


def sparse_process(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    torch.save([after_sparse_steps(kind, 2, rank, size) for kind in ("fixed", "uncertainty")], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_step_is_the_mean_over_labeled_rows_in_however_many_batches_and_processes(tmp_path):
    mp.start_processes(sparse_process, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    of_processes = torch.load(tmp_path / "0.pt", weights_only=True)
    for kind, in_processes in zip(("fixed", "uncertainty"), of_processes):
        alone = after_sparse_steps(kind)
        # The log-variances take a step for each batch, at which the weights have already moved a little.
        loose = {"rtol": 0, "atol": 1e-2} if kind == "uncertainty" else {"rtol": 1e-4, "atol": 1e-6}
        for found in (after_sparse_steps(kind, accumulate=2), after_sparse_steps(kind, accumulate=4), in_processes):
            for one, two in zip(alone, found, strict=True):
                torch.testing.assert_close(one, two, **loose)


# The commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASELINES)
def test_a_run_stops_and_resumes_bit_for_bit(kind, tmp_path, tiny_faces, in_process):
    """Batch norm, dropout, a view of its own for the teacher; a balanced head where it can be trained."""
    head = "abc" if kind == "PseudoLabelTrainer" else "plain"
    config = write_config(
        tmp_path,
        tiny_faces,
        data_loader={"num_workers": 0},
        arch={"args": {"backbone": "test_efficientnet", "pretrained": False, "head": head}},
        trainer={"type": kind, "args": {"ramp_up": 0.5}, "epochs": 2},
    )
    checked = in_process("train.py", "-c", str(config), "--check-resume")
    assert checked.code == 0 and "equal bit for bit" in checked.out, checked.out + checked.err
