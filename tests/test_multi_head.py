"""Several heads, partly labeled rows, learned weights, and the losses of mixed images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_model import BaseModel
from trainer.build import build_trainer
from trainer.check_resume import check_resume
from trainer.components import KINDS, check_components
from trainer.mix import Mixed, build_mix
from trainer.multi_head import UncertaintyWeights
from utils.config import load_config
from utils.distributed import World
from utils.errors import ConfigError

CLASSES = {"mask": ("wear", "incorrect", "normal"), "age": ("<30", "30-59", ">=60")}
TARGET = {"mask": torch.tensor([0, 1, 2, -1]), "age": torch.tensor([2, -1, -1, -1])}


class Linear(BaseModel):
    """Logits of 2 x 2 pictures."""

    def __init__(self, classes: dict[str, tuple[str, ...]] = CLASSES):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({head: nn.Linear(12, len(names)) for head, names in classes.items()})

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        return {head: linear(images.flatten(1)) for head, linear in self.heads.items()}


def batch(target: dict[str, Tensor] = TARGET, n: int = 4) -> dict:
    images = torch.arange(n * 12, dtype=torch.uint8).reshape(n, 2, 2, 3)
    return {"labeled": {"image": images, "target": target, "row": torch.arange(n)}}


@pytest.fixture
def trainer(make_trainer):
    def make(kind: str = "MultiHeadTrainer", classes=CLASSES, weights=(1.0, 1.0), **args):
        sections = {
            "optimizer": {"type": "SGD", "args": {"lr": 0.0}},
            "trainer": {"type": kind, "args": args, "epochs": 1, "steps_per_epoch": 1},
        }
        made = make_trainer(Linear(classes), classes, **sections)
        made.parts.losses = {h: (made.parts.losses[h][0], w) for h, w in zip(classes, weights)}
        return made

    return make


def means(logits: dict[str, Tensor], target: dict[str, Tensor] = TARGET) -> dict[str, Tensor]:
    return {head: F.cross_entropy(logits[head], labels, ignore_index=-1) for head, labels in target.items()}


# Heads ---------------------------------------------------------------------------------------------------------------


def test_each_head_learns_from_the_rows_that_have_its_label(trainer):
    made = trainer(weights=(0.5, 2.0))
    own = means(made.model(made.normalize(batch()["labeled"]["image"])))
    loss = made.training_step(batch())
    assert loss.item() == pytest.approx((0.5 * own["mask"] + 2.0 * own["age"]).item(), rel=1e-6)
    made.sums.add({"steps": 1.0})
    # A second batch without a label for age: what is logged is the mean over labeled rows, not over batches.
    made.training_step(batch({**TARGET, "age": torch.full((4,), -1)}))
    values = made.epoch_values({**made.sums.read(), "steps": torch.tensor(2.0)})
    assert values["train/mask/loss"] == pytest.approx(own["mask"].item(), rel=1e-6)
    assert values["train/age/loss"] == pytest.approx(own["age"].item(), rel=1e-6)
    assert "train/age/weight" not in values
    loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in made.model.parameters())


def test_uncertainty_is_kendalls_loss_and_its_gradient():
    losses = torch.tensor([0.8, 3.0], requires_grad=True)
    weights = UncertaintyWeights(2, lr=0.1)
    weights.log_variances.copy_(torch.tensor([0.5, -1.0]))
    s = weights.log_variances.clone().requires_grad_()
    expected = ((-s).exp() * losses.detach() + s / 2).sum()
    expected.backward()
    found = weights(losses, torch.tensor([True, True]))
    found.backward()
    assert found.item() == pytest.approx(expected.item())
    assert torch.allclose(losses.grad, (-s.detach()).exp())
    assert torch.allclose(weights.log_variances, s.detach() - 0.1 * s.grad)


def test_uncertainty_finds_the_optimum_and_leaves_absent_heads_alone():
    losses, weights = torch.tensor([0.05, 2.0, 1.0]), UncertaintyWeights(3)
    for _ in range(2000):
        weights(losses, torch.tensor([True, True, False]))
    assert torch.allclose(weights.weights()[:2], 1 / (2 * losses[:2]), rtol=1e-3)
    assert weights.log_variances[2] == 0
    whole, halves = UncertaintyWeights(3), UncertaintyWeights(3)
    whole(losses, losses > 0)
    halves(losses, losses > 0, step=0.5)
    halves(losses, losses > 0, step=0.5)
    assert torch.allclose(whole.log_variances, halves.log_variances, rtol=0.05)


def test_uncertainty_in_the_trainer_is_logged_and_kept_in_its_state(trainer):
    made = trainer(weighting="uncertainty")
    own = means(made.model(made.normalize(batch()["labeled"]["image"])))
    assert made.training_step(batch()).item() == pytest.approx(sum(own.values()).item(), rel=1e-6)
    expected = torch.stack([0.02 * (loss - 0.5) for loss in own.values()])
    assert torch.allclose(made.trainer_state().state_dict()["log_variances"], expected, rtol=1e-4)
    values = made.epoch_values({**made.sums.read(), "steps": torch.tensor(1.0)})
    assert values["train/mask/weight"] == pytest.approx(torch.exp(-expected[0]).item())


def test_what_does_not_fit_is_refused(make_trainer, trainer, tmp_path):
    with pytest.raises(ConfigError, match="the data has only 'mask'; set it to SupervisedTrainer"):
        trainer(classes={"mask": CLASSES["mask"]})
    with pytest.raises(ConfigError, match=r"trainer\.args\.mix: no mix 'cutmixx'; did you mean 'cutmix'"):
        trainer(mix="cutmixx")
    base = str(Path(__file__).resolve().parents[1] / "configs" / "demo" / "mask_multihead.json")
    for change, message in (
        ({"weighting": "learned"}, 'trainer.args.weighting: expected "fixed" or "uncertainty", got "learned"'),
        ({"mix": {"type": "mixup", "args": {"alfa": 1}}}, "trainer.args.mix.args.alfa: mixup has no argument 'alfa'"),
        ({"type": "FixMatchTrainer", "mix": "mixup"}, "trainer.args.mix: FixMatchTrainer has no argument 'mix'"),
    ):
        kind = change.pop("type", "MultiHeadTrainer")
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"extends": base, "trainer": {"type": kind, "args": change}}))
        with pytest.raises(ConfigError) as error:
            check_components(load_config(path))
        assert message in str(error.value)


# Mixed images (test_mix.py has the pictures) -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SupervisedTrainer", "MultiHeadTrainer"])
def test_the_loss_of_a_pair_is_that_of_both_labels(trainer, kind):
    """share · L(own) + (1 - share) · L(partner), over the labels that there are; nothing is made a hard label."""
    made = trainer(kind, mix="mixup", weights=(1.0, 3.0))
    images, share, partner = batch()["labeled"]["image"], torch.full((4,), 0.7), torch.tensor([1, 0, 3, 2])
    made.mix = lambda images, target: Mixed(images, partner, share)
    loss = made.training_step(batch())
    z = made.model(made.normalize(images))
    rows = {head: -z[head].log_softmax(1) for head in z}
    mask = 0.7 * rows["mask"][0, 0] + 0.3 * rows["mask"][0, 1]
    mask = mask + 0.7 * rows["mask"][1, 1] + 0.3 * rows["mask"][1, 0] + 0.7 * rows["mask"][2, 2]
    mask = (mask + 0.3 * rows["mask"][3, 2]) / 3.0  # shares 1 + 1 + 0.7 + 0.3
    age = (0.7 * rows["age"][0, 2] + 0.3 * rows["age"][1, 2]) / 1.0
    assert loss.item() == pytest.approx((mask + 3 * age).item(), rel=1e-5)
    confusion = made.sums.read()["confusion/mask"]
    assert confusion.sum(1).tolist() == pytest.approx([1, 1, 1])
    soft = F.one_hot(TARGET["mask"][:2], 3) * 0.7 + F.one_hot(TARGET["mask"][[1, 0]], 3) * 0.3
    torch_loss = F.cross_entropy(z["mask"][:2], soft)
    ours = made.sum_of_heads({"mask": made._mixed_loss("mask", z["mask"][:2], TARGET["mask"][:2], _first_two())})
    assert ours.item() == pytest.approx(torch_loss.item(), rel=1e-5)


def _first_two() -> Mixed:
    return Mixed(torch.empty(0), torch.tensor([1, 0]), torch.full((2,), 0.7))


def test_off_by_name_or_null(trainer):
    parts = trainer().parts
    assert build_mix(parts, None) is None and build_mix(parts, "none") is None
    assert sorted(KINDS["mix"].names()) == ["cutmix", "half_face", "mixup"]


# The whole path ------------------------------------------------------------------------------------------------------


def two_heads(tmp_path: Path, faces: Path, **args) -> Path:
    """The tiny faces with hue and, for two rows of three, side; mixed sampler, losses and images."""
    table = pd.read_csv(faces / "labels.csv")
    table["side"] = np.where(table.index % 3 == 0, "", np.where(table.index % 2 == 0, "left", "right"))
    table.to_csv(faces / "two.csv", index=False)
    reader = {"root": str(faces), "frame": "two.csv", "attributes": ["hue", "side"], "group": "group"}
    config = {
        "name": "two",
        "dataset": {"type": "LabelCSV", "args": reader},
        "split": {"valid": 0.25},
        "views": {"size": 32},
        "data_loader": {"batch_size": 8, "num_workers": 0, "sampler": "square_root"},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet"}},
        "loss": {
            "hue": {"type": "mixture", "args": {"parts": ["bce", "soft_f1"]}},
            "default": {"type": "label_smoothing", "args": {"smoothing": 0.1}},
        },
        "optimizer": {"type": "AdamW", "args": {"lr": 5e-3}},
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.01}, "interval": "step"},
        "trainer": {
            "type": "MultiHeadTrainer",
            "args": args,
            "epochs": 1,
            "steps_per_epoch": 12,
            "accumulate": 2,
            "ema": 0.9,
            "save_dir": str(tmp_path / "saved"),
        },
        "logger": {"tensorboard": False},
    }
    path = tmp_path / "two.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("kind", ["cutmix", "half_face"])
def test_stopping_and_continuing_changes_nothing(tmp_path, tiny_faces, kind):
    config = load_config(two_heads(tmp_path, tiny_faces, weighting="uncertainty", mix=kind))
    same, lines = check_resume(config, "cpu")
    assert same, "\n".join(lines)


def test_it_learns_and_a_checkpoint_holds_the_learned_weights(tmp_path, tiny_faces, run):
    path = two_heads(tmp_path, tiny_faces, weighting="uncertainty", mix={"type": "mixup", "args": {"p": 0.5}})
    done = run(
        "train.py", "-c", path, "--run-id", "x", "-d", "cpu", "-s", "trainer.epochs=3", "-s", "trainer.accumulate=1"
    )
    assert done.code == 0, done.err
    run_dir = tmp_path / "saved" / "two" / "x"
    table = pd.read_csv(run_dir / "metrics.csv")
    assert table["valid/hue/macro_f1"].max() > 0.9
    names = ["train/hue/loss", "train/side/loss", "train/hue/weight", "train/side/weight"]
    assert table[names].notna().all(axis=None)
    state = torch.load(run_dir / "checkpoints" / "last.pth", weights_only=True)["trainer"]
    assert torch.exp(-state["log_variances"]).tolist() == pytest.approx(table[names[2:]].iloc[-1].tolist())


def test_heads_that_are_not_learned_or_not_labeled_judge_nothing(tmp_path, tiny_faces, in_process):
    """Neither the mean over heads nor the collapse guard; what is monitored has images that are labeled for it."""
    path = two_heads(tmp_path, tiny_faces, weighting="fixed")
    fixmatch = ["-s", "trainer.type=FixMatchTrainer", "-s", "trainer.args={}", "-d", "cpu"]
    short = ["-s", "trainer.epochs=6", "-s", "trainer.steps_per_epoch=2", "-s", "lr_scheduler=null"]
    off = ["-s", "loss.default.weight=0"]
    done = in_process("train.py", "-c", str(path), "--run-id", "x", *fixmatch, *short, *off)
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "saved" / "two" / "x" / "metrics.csv")
    assert len(table) == 6 and "warning: side" not in done.out
    pd.testing.assert_series_equal(table["valid/macro_f1"], table["valid/hue/macro_f1"], check_names=False)
    both = table["valid/joint/accuracy"]
    assert (both <= table[["valid/hue/accuracy", "valid/side/accuracy"]].min(axis=1) + 1e-9).all() and both.max() > 0

    frame = pd.read_csv(tiny_faces / "two.csv", dtype=str, keep_default_na=False)
    side = frame["group"].map(
        {group: "valid" if n % 4 == 0 else "train" for n, group in enumerate(frame["group"].unique())}
    )
    frame.assign(where=side, side=frame["side"].where(side == "train", "")).to_csv(
        tiny_faces / "given.csv", index=False
    )
    given = [
        "-s",
        "dataset.args.frame=given.csv",
        "-s",
        "dataset.args.split=where",
        "-s",
        "split.stratify=null",
        "-d",
        "cpu",
    ]
    for monitor, said in (
        ("side/macro_f1", "no validation image has a label of 'side'"),
        ("joint/macro_f1", "no validation image is labeled for all of hue, side"),
    ):
        done = in_process("train.py", "-c", str(path), *given, "-s", f"trainer.monitor=max valid/{monitor}", "--check")
        assert done.code == 2 and "trainer.monitor" in done.err and said in done.err, done.err
    done = in_process("train.py", "-c", str(path), "--run-id", "y", *given, *short)
    assert done.code == 0 and "warning: side: no validation image has a label, so it is not scored" in done.out
    table = pd.read_csv(tmp_path / "saved" / "two" / "y" / "metrics.csv")
    assert (
        table["valid/macro_f1"].notna().all()
        and (tmp_path / "saved" / "two" / "y" / "checkpoints" / "best.pth").exists()
    )
    pd.testing.assert_series_equal(table["valid/macro_f1"], table["valid/hue/macro_f1"], check_names=False)
    frame.assign(side="").to_csv(tiny_faces / "given.csv", index=False)
    classes = ["-s", 'dataset.args.classes={"side": ["a", "b"]}', "-s", "dataset.args.frame=given.csv"]
    done = in_process("train.py", "-c", str(path), *classes, "--check")
    assert done.code == 2 and "side: no training image has a label of it" in done.err, done.err


def test_weights_and_learned_weights_exclude_each_other(tmp_path, tiny_faces):
    path = two_heads(tmp_path, tiny_faces, weighting="uncertainty")
    config = load_config(path, ["loss.default.weight=2.0"])
    with pytest.raises(ConfigError, match="the head 'side' has a weight"):
        build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None)
