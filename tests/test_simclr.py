"""SimCLRTrainer: its loss, over processes too; the features' score; pretraining without labels and what follows it."""

from __future__ import annotations

import csv
import shutil
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base.base_model import BaseModel
from data_loader.readers import ImageFolder
from tests import conftest
from tests.test_training import write_config
from trainer.contrastive import nt_xent
from trainer.linear_probe import fit_linear
from utils.errors import ConfigError

CLASSES = {"hue": ("blue", "red")}


class Encoder(BaseModel):
    """A projection of 2 x 2 pictures; no head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.projection = nn.Linear(12, 8), nn.Linear(8, 4)
        self.heads = nn.ModuleDict()

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        return {"projection": self.projection(self.backbone(images.flatten(1)).tanh())}


def make(make_trainer, **args: Any):
    trainer = make_trainer(
        Encoder(),
        classes=CLASSES,
        trainer={
            "type": "SimCLRTrainer",
            "args": args,
            "epochs": 2,
            "steps_per_epoch": 3,
            "ema": None,
            "monitor": "min train/loss",
        },
        optimizer={"type": "SGD", "args": {"lr": 0.05}},
    )
    trainer.normalize = lambda images: images
    return trainer


def views(step: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    image = torch.randn(8, 3, 2, 2, generator=rng)
    return tuple(image + 0.3 * torch.randn(image.shape, generator=rng) for _ in range(2))


def train(trainer, rank: int = 0, size: int = 1) -> list[Tensor]:
    for step in range(4):
        first, second = views(step)
        trainer.train_on({"all": {"first": first[rank::size], "second": second[rank::size]}})
    return [*(p.detach().clone() for p in trainer.model.parameters()), trainer.sums.read()["mean/contrastive_accuracy"]]


def test_the_step_is_nt_xent_of_the_two_views_and_it_learns(make_trainer):
    trainer, untrained = make(make_trainer, temperature=0.2), Encoder()
    first, second = views(0)
    expected = nt_xent(untrained(first)["projection"], untrained(second)["projection"], 0.2)
    loss = trainer.training_step({"all": {"first": first, "second": second}})
    torch.testing.assert_close(loss, expected)
    for _ in range(6):
        trainer.train_on({"all": {"first": first, "second": second}})
    after = nt_xent(trainer.model(first)["projection"], trainer.model(second)["projection"], 0.2)
    assert after < expected and not torch.equal(trainer.model.backbone.weight, untrained.backbone.weight)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        make(make_trainer, temperature=0.0)


def process(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    trainer = make(conftest.make_trainer.__wrapped__())  # type: ignore[attr-defined]
    trainer.network = DistributedDataParallel(trainer.model)
    rows = blobs(rank * 30, (rank + 1) * 30)
    torch.save([*train(trainer, rank, size), *fit_linear(*rows, classes=3)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def blobs(start: int, stop: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    target = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 60, replacement=True, generator=rng)
    features = torch.randn(60, 5, generator=rng) * torch.tensor([1.0, 5.0, 0.1, 1.0, 0.0]) + target[:, None]
    return features[start:stop], target[start:stop]


def test_two_processes_compare_every_image_with_all_and_train_as_one(make_trainer, tmp_path):
    mp.start_processes(process, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    *alone, accuracy = train(make(make_trainer))
    expected = [*alone, 2 * accuracy, *fit_linear(*blobs(0, 60), classes=3)]  # sums are over processes and steps
    for one, two, single in zip(*found, expected):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, single, rtol=1e-4, atol=1e-5)


def test_the_heads_are_the_logistic_regression_of_the_features():
    """The gradient of the documented loss is 0 there; a constant feature counts as nothing."""
    features, target = blobs(0, 60)
    features[:, 4] = 7.0
    weight, bias = (t.double() for t in fit_linear(features, target, classes=3, penalty=2.0))
    scale = features.double().std(dim=0, correction=0)
    w = (weight * scale).requires_grad_()
    standard = (features.double() - features.double().mean(dim=0)) / scale.clamp(min=1e-6)
    b = (bias + weight @ features.double().mean(dim=0)).requires_grad_()
    z = standard @ w.T + b
    share = 60 / (3 * torch.bincount(target).double())
    loss = nn.functional.cross_entropy(z, target, share, reduction="sum") + w.square().sum()
    loss.backward()
    assert w.grad.abs().max() < 1e-2 and b.grad.abs().max() < 1e-2 and not weight[:, 4].any()


# The commands --------------------------------------------------------------------------------------------------------

PRETRAINING: dict[str, Any] = {
    "name": "pretraining",
    "arch": {"args": {"backbone": "test_efficientnet", "pretrained": False, "head": "simclr"}},
    "views": {"strong": "simclr"},
    "data_loader": {"num_workers": 0, "batch_size": 24},
    "loss": {"type": "cross_entropy"},
}
SIMCLR = {"type": "SimCLRTrainer", "args": {}, "epochs": 2, "steps_per_epoch": 4, "ema": None}


def test_pretrain_resume_test_and_load_the_backbone(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces, **PRETRAINING, trainer=SIMCLR)
    checked = in_process("train.py", "-c", str(config), "--check-resume")
    assert checked.code == 0 and "equal bit for bit" in checked.out, checked.out + checked.err
    done = in_process("train.py", "-c", str(config), "--run-id", "x")
    assert done.code == 0 and "before the first step: valid/macro_f1" in done.out, done.out + done.err
    run_dir = tmp_path / "saved" / "pretraining" / "x"
    with (run_dir / "metrics.csv").open() as file:
        best = max(float(row["valid/macro_f1"]) for row in csv.DictReader(file))
    assert in_process("test.py", "--resume", str(run_dir)).code == 0, "the fitted heads are in the checkpoint"
    assert f'"macro_f1": {best}' in (run_dir / "report" / "metrics.json").read_text()

    weights = run_dir / "checkpoints" / "last.pth"
    state = torch.load(weights, weights_only=True)["model"]
    config = write_config(tmp_path, tiny_faces, name="finetuned", data_loader={"num_workers": 0})
    done = in_process("train.py", "--check", "-c", str(config), "-s", f"arch.args.weights={weights}")
    total = sum(key.startswith("backbone.") and "num_batches" not in key for key in state)
    assert f"{total} of {total} backbone tensors (100 % of the values)" in done.out, done.out + done.err
    refused = in_process("train.py", "--check", "-c", str(config), "-s", "arch.args.head=simclr")
    assert refused.code == 2 and "FixMatchTrainer does not train a model with the head 'simclr'" in refused.err


def test_one_image_has_nothing_to_be_compared_with(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces, **PRETRAINING, trainer=SIMCLR)
    done = in_process("train.py", "-c", str(config), "-s", "data_loader.batch_size=1")
    assert done.code == 2 and "data_loader.batch_size: SimCLRTrainer compares the images of a batch" in done.err, (
        done.err
    )


def test_images_without_any_label(tmp_path, tiny_faces, in_process):
    root = tmp_path / "faces"
    shutil.copytree(tiny_faces / "images", root / "unlabeled")
    assert ImageFolder(str(root)).classes == {"label": ()}
    changes = {
        **PRETRAINING,
        "dataset": {"type": "ImageFolder", "args": {"root": str(root)}},
        "labels": {"labeled": None},
    }
    config = write_config(tmp_path, tiny_faces, **changes, trainer=SIMCLR)
    lacking = in_process("train.py", "-c", str(config))
    assert lacking.code == 2 and "choose from train/contrastive_accuracy, train/loss\n" in lacking.err
    monitor = ["-s", "trainer.monitor=min train/loss"]
    done = in_process("train.py", "-c", str(config), "--run-id", "x", *monitor)
    assert done.code == 0, done.out + done.err
    run_dir = tmp_path / "saved" / "pretraining" / "x"
    with (run_dir / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 2 and np.isfinite(losses).all()
    nothing = in_process("predict.py", "--resume", str(run_dir / "checkpoints" / "last.pth"), str(root))
    assert nothing.code == 2 and "a backbone trained without labels" in nothing.err
    supervised = ["-s", "trainer.type=SupervisedTrainer", "-s", "arch.args.head=plain"]
    refused = in_process("train.py", "-c", str(config), *supervised)
    assert refused.code == 2 and "no training image has a label" in refused.err
