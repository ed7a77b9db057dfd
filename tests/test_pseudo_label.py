"""Every switch of FixMatch learns, differs from plain FixMatch, resumes, and agrees over processes."""

from __future__ import annotations

import csv
import io
import itertools
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_model import BaseModel
from model.classifier import FaceClassifier
from model.loss import logit_adjustment
from tests import conftest
from tests.test_training import rows, write_config
from trainer.components import KINDS
from trainer.pseudo_label import align, debias, threshold
from trainer.pseudo_label.balanced_head import BalancedHead
from trainer.pseudo_label.kinds import build_labeler
from trainer.pseudo_label.labeler import PseudoLabeler, PseudoLabels
from trainer.pseudo_label.running_mean import RunningMean
from trainer.pseudo_label.weak_batch import Labeled
from utils.errors import ConfigError, UserError
from utils.sums import Sums

NAMES = tuple("abcdefghij")
UNLABELED = 40
FIXED = {"type": "fixed", "args": {"value": 0.6}}
METHODS: dict[str, dict[str, Any]] = {
    "flexmatch": {"threshold": {"type": "flexmatch", "args": {"value": 0.6}}},
    "flexmatch without warm-up": {"threshold": {"type": "flexmatch", "args": {"value": 0.6, "thresh_warmup": False}}},
    "freematch": {"threshold": {"type": "freematch", "args": {"momentum": 0.9}}},
    "freematch quantile": {"threshold": {"type": "freematch", "args": {"quantile": 0.8, "clip": [0.1, 0.9], "w_f": 0}}},
    "softmatch": {"threshold": "softmatch", "align": "uniform"},
    "softmatch per class": {"threshold": {"type": "softmatch", "args": {"per_class": True}}},
    "softmatch aligned": {"threshold": {"type": "softmatch", "args": {"labels": "aligned"}}, "align": "prior"},
    "adamatch": {"threshold": {"type": "adamatch", "args": {"value": 0.9}}, "align": "estimated"},
    "prior": {"threshold": FIXED, "align": "prior"},
    "uniform": {"threshold": FIXED, "align": "uniform"},
    "estimated": {"threshold": FIXED, "align": "estimated"},
    "crest_plus": {"threshold": FIXED, "align": {"type": "crest_plus", "args": {"generations": 3}}},
    "logit_adjustment": {"threshold": FIXED, "debias": "logit_adjustment"},
    "debiaspl": {"threshold": FIXED, "debias": "debiaspl"},
    "simpro": {"threshold": FIXED, "debias": {"type": "simpro", "args": {"every": 2}}},
    "saw": {"threshold": FIXED, "class_weight": "saw"},
    "everything": {
        "threshold": {"type": "freematch", "args": {"w_f": 0.05}},
        "align": "estimated",
        "debias": "debiaspl",
        "class_weight": "saw",
    },
}


class LinearNet(BaseModel):
    """Small enough to see every change; with `balanced`, ABC's second classifier."""

    def __init__(self, classes: int, balanced: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(12, 8), nn.Linear(8, classes)
        self.balanced_heads = nn.ModuleDict({"label": nn.Linear(8, classes)}) if balanced else None

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        features = self.body(images.flatten(1)).tanh()
        if self.balanced_heads is None:
            return {"label": self.head(features)}
        balanced = self.balanced_heads["label"](features)
        return {"label": self.head(features), "label/balanced": balanced} if self.training else {"label": balanced}


class ImbalancedData(conftest.NoData):
    def __init__(self, classes):
        super().__init__(classes)
        self.class_counts = {head: 2.0 ** torch.arange(len(names), 0, -1) for head, names in classes.items()}
        rows = type("Stream", (), {"rows": np.arange(UNLABELED) * 3 + 5})
        self.streams = {"unlabeled": (rows, 1)}


@pytest.fixture
def start(make_trainer, monkeypatch):
    def start(classes: int, balanced: bool = False, loss: str | dict[str, Any] = "cross_entropy", **args: Any):
        monkeypatch.setattr(conftest, "NoData", ImbalancedData)
        trainer = make_trainer(
            LinearNet(classes, balanced),
            classes={"label": NAMES[:classes]},
            trainer={"type": "FixMatchTrainer", "args": args, "epochs": 2, "steps_per_epoch": 5, "ema": None},
            optimizer={"type": "SGD", "args": {"lr": 0.5, "momentum": 0.9}},
            loss={"type": loss} if isinstance(loss, str) else loss,
        )
        trainer.normalize = lambda images: images
        trainer.network.train()
        return trainer

    return start


def batch(step: int, classes: int) -> dict[str, dict[str, Any]]:
    """Blobs of classes that become rarer; the strong view is the weak one with noise."""
    rng = torch.Generator().manual_seed(step)
    shares = 2.0 ** -torch.arange(classes)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        target = torch.multinomial(shares, count, replacement=True, generator=rng)
        centre = torch.eye(12)[target] * 2
        return (centre + 0.4 * torch.randn(count, 12, generator=rng)).view(count, 3, 2, 2), target

    (image, target), (weak, _) = draw(16), draw(32)
    strong = weak + 0.5 * torch.randn(weak.shape, generator=rng)
    row = torch.randperm(UNLABELED, generator=rng)[:32] * 3 + 5
    return {
        "labeled": {"image": image, "target": {"label": target}},
        "unlabeled": {"weak": weak, "strong": strong, "row": row},
    }


def train(trainer, steps: range, classes: int) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        losses.append(float(trainer.train_on(batch(step, classes))))
    return losses


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_differs_from_fixmatch_and_resumes(start, method: str, classes: int):
    plain, trainer, before = start(classes, threshold=FIXED), start(classes, **METHODS[method]), LinearNet(classes)
    train(plain, range(6), classes)
    losses = train(trainer, range(6), classes)
    assert np.isfinite(losses).all()
    for now, then, other in zip(trainer.model.parameters(), before.parameters(), plain.model.parameters()):
        assert not torch.equal(now, then), "a parameter does not move"
        assert not torch.equal(now, other), "the same as plain FixMatch"

    stored = io.BytesIO()
    parts = (trainer.model, trainer.parts.optimizer, trainer.trainer_state())
    torch.save([part.state_dict() for part in parts], stored)
    stored.seek(0)
    resumed = start(classes, **METHODS[method])
    resumed.step = trainer.step
    for part, state in zip(
        (resumed.model, resumed.parts.optimizer, resumed.trainer_state()), torch.load(stored, weights_only=True)
    ):
        part.load_state_dict(state)
    assert train(resumed, range(6, 10), classes) == train(trainer, range(6, 10), classes)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), trainer.model.parameters()))


@pytest.mark.parametrize("method", METHODS)
def test_the_unlabeled_loss_has_a_gradient_of_its_own(start, method: str):
    """At equal weights, the gradient with lambda_u 1 is not that with 0."""
    found = []
    for lambda_u in (0.0, 1.0):
        trainer = start(3, **METHODS[method], lambda_u=0.0)
        train(trainer, range(4), 3)
        trainer.lambda_u = lambda_u
        trainer.training_step(batch(4, 3)).backward()
        found.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    assert float((found[0] - found[1]).norm()) > 1e-3


def test_simpro_starts_a_class_without_labels_as_one_row():
    estimator = KINDS["debias"].build("simpro", "debias", class_counts=torch.tensor([6.0, 3.0, 0.0]))
    assert estimator.student(torch.zeros(1, 3)).exp().tolist()[0] == pytest.approx([0.6, 0.3, 0.1])


def test_a_balanced_head_for_one_of_two_heads():
    torch.manual_seed(0)
    kinds = {"age": "abc", "default": "plain"}
    model = FaceClassifier({"gender": 2, "age": 3}, backbone="test_resnet", head=kinds, dropout=0.0)
    images = torch.randn(2, 3, 32, 32)
    in_training = model(images)
    assert list(in_training) == ["gender", "age", "age/balanced"] and model.head_kind == "abc"
    features = model.eval().features(images)
    evaluated = model.classify(features)
    assert list(evaluated) == ["gender", "age"]
    assert torch.equal(evaluated["age"], model.balanced_heads["age"](features))
    assert torch.equal(evaluated["gender"], model.heads["gender"](features))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"aeg": "abc", "default": "plain"}, r"arch\.args\.head: no head 'aeg'.*'age'"),
        ({"age": "abc"}, r"arch\.args\.head: nothing for the head 'gender' and no 'default'"),
        ({"default": "simclr"}, r"arch\.args\.head\.default: 'simclr' is unknown.*plain"),
        ("abcd", r"arch\.args\.head: 'abcd' is unknown.*'abc'"),
    ],
)
def test_a_head_that_cannot_be(head: Any, message: str):
    with pytest.raises(UserError, match=message):
        FaceClassifier({"gender": 2, "age": 3}, backbone="test_resnet", head=head)


def test_the_balanced_head_learns_evaluates_and_is_trained_in_the_warm_up(start, make_trainer):
    trainer = start(3, balanced=True, threshold=FIXED, warm_up_epochs=1)
    untrained = LinearNet(3, balanced=True)
    weight = trainer.model.balanced_heads["label"].weight
    train(trainer, range(2), 3)
    warm = weight.clone()
    assert not torch.equal(warm, untrained.balanced_heads["label"].weight)
    train(trainer, range(2, 8), 3)
    assert not torch.equal(weight, warm) and trainer.sums.read()["mean/loss_further"] > 0
    images = batch(9, 3)["labeled"]["image"]
    in_training = trainer.model.train()(images)
    assert torch.equal(trainer.model.eval()(images)["label"], in_training["label/balanced"])
    assert not torch.equal(in_training["label"], in_training["label/balanced"])
    with pytest.raises(
        ConfigError,
        match=r"arch\.args\.head: SupervisedTrainer does not train a model with the head .abc.; set it to plain",
    ):
        make_trainer(
            LinearNet(3, balanced=True),
            classes={"label": NAMES[:3]},
            trainer={"type": "SupervisedTrainer", "epochs": 1},
            optimizer={"type": "SGD", "args": {"lr": 0.1}},
        )


@pytest.mark.parametrize(
    "loss",
    [
        {"type": "logit_adjustment"},
        {"type": "mixture", "args": {"parts": ["focal", "logit_adjustment"]}},
        {"type": "mixture", "args": {"parts": [{"type": "mixture", "args": {"parts": ["logit_adjustment"]}}]}},
    ],
)
def test_simpro_refuses_a_loss_that_adjusts_too(start, loss: dict[str, Any]):
    with pytest.raises(ConfigError, match="debias: simpro adjusts the labeled loss of 'label' itself"):
        start(2, debias="simpro", loss=loss)
    start(2, debias="simpro", loss={"type": "mixture", "args": {"parts": ["focal", "cross_entropy"]}})


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (
            {"threshold": {"type": "fixed", "args": {"value": 1.5}}},
            "test: trainer.args.threshold.args: fixed: value must be in (0, 1], got 1.5",
        ),
        (
            {"align": {"label": {"type": "prior", "args": {"momentum": 2.0}}, "default": None}},
            "test: trainer.args.align.label.args: prior: momentum must be in [0, 1), got 2.0",
        ),
        (
            {"debias": {"default": {"type": "logit_adjustment", "args": {"tau": -1.0}}}},
            "test: trainer.args.debias.default.args: logit_adjustment: tau must be at least 0, got -1.0",
        ),
        (
            {"debias": {"type": "logit_adjustment", "args": {"weak_tau": -0.5}}},
            "test: trainer.args.debias.args: logit_adjustment: weak_tau must be at least 0, got -0.5",
        ),
        (
            {"abc_threshold": 0.9},
            "test: trainer.args.abc_threshold: needs arch.args.head abc",
        ),
    ],
)
def test_a_refused_value_is_named_with_its_file_key_and_head(start, switches: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as error:
        start(2, **switches)
    assert error.value.problems == [said]


def test_a_warm_up_of_the_whole_run_is_warned_of(tmp_path, tiny_faces, in_process):
    """One epoch of a config with a warm-up of one, and fewer steps than its schedule's warm-up; then resumed."""
    config = write_config(tmp_path, tiny_faces, data_loader={"num_workers": 0})
    trial = ("-s", "trainer.epochs=1", "-s", "trainer.steps_per_epoch=2", "--run-id", "x")
    done = in_process("train.py", "-c", str(config), *trial)
    assert done.code == 0, done.err
    log = (tmp_path / "saved" / "tiny" / "x" / "train.log").read_text()
    assert "warning: trainer.args.warm_up_epochs: 1 epochs of warm-up leave none of 1 to learn" in log
    assert "warning: lr_scheduler.args.warm_up: the run has 2 steps, so it is 2" in log
    last = str(tmp_path / "saved" / "tiny" / "x" / "checkpoints" / "last.pth")
    done = in_process("train.py", "-r", last, "-s", "trainer.epochs=2")
    assert done.code == 0 and rows(tmp_path / "saved" / "tiny" / "x")[-1]["train/hue/pass_rate"] != ""
    for changes in ("warm_up=-1", "total_steps=2", "total_steps=-2"):
        done = in_process("train.py", "-c", str(config), "-s", f"lr_scheduler.args.{changes}")
        assert done.code == 2 and "lr_scheduler.args: cosine_716: " in done.err, done.err
    done = in_process("train.py", "-c", str(config), "-s", "trainer.args.threshold.args.value=1.5")
    assert done.err.startswith(
        "error: -s trainer.args.threshold.args.value=1.5: trainer.args.threshold.args: fixed: value must be in (0, 1]"
    )


def gradient(trainer, step: int = 3) -> Tensor:
    trainer.parts.optimizer.zero_grad()
    torch.manual_seed(step)
    trainer.training_step(batch(step, 3)).backward()
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trainer.model.parameters()]
    )


@pytest.mark.parametrize("ramp_up", [0.0, 1.0])
@pytest.mark.parametrize("switch", ["fairness", "abc"])
def test_terms_of_switches_have_factors_of_their_own(start, switch: str, ramp_up: float):
    """What w_f and abc_weight add to the gradient is in proportion to them and the same for every lambda_u."""
    added = []
    for lambda_u, factor in ((1.0, 0.02), (0.0, 0.02), (3.0, 0.04)):
        found = []
        for f in (0.0, factor):
            args: dict[str, Any] = {"threshold": {"type": "freematch", "args": {"w_f": f}}}
            if switch == "abc":
                args = {"threshold": FIXED, "abc_weight": f, "abc_threshold": 0.4}
            trainer = start(3, switch == "abc", **args, lambda_u=lambda_u, ramp_up=ramp_up)
            trainer.step = 2
            found.append(gradient(trainer))
        added.append((found[1] - found[0]) / factor)
    assert float(added[0].norm()) > 1e-2
    for other in added[1:]:
        torch.testing.assert_close(other, added[0], rtol=1e-3, atol=1e-4)


def test_abc_threshold_is_that_of_the_second_classifier(start):
    """Above every confidence, its loss is that of the labeled rows alone."""
    losses = []
    for value in (1.0, 0.1):
        trainer = start(3, True, threshold=FIXED, abc_threshold=value)
        gradient(trainer)
        losses.append(float(trainer.sums.read()["mean/loss_further"]))
    assert losses[0] == 0 < losses[1]


def test_a_class_without_labels_is_one_row_for_debiasing_as_for_the_loss():
    counts, logits = torch.tensor([90.0, 9.0, 0.0]), torch.randn(8, 3)
    labels = torch.arange(8) % 3
    adjusted = debias.logit_adjustment(counts, tau=0.7)
    expected = logit_adjustment(logits, labels, counts, tau=0.7)
    torch.testing.assert_close(F.cross_entropy(adjusted.student(logits), labels, reduction="none"), expected)
    assert float(adjusted.log_prior[2]) == pytest.approx(np.log(1 / 100), abs=1e-6)
    with pytest.raises(ValueError, match="tau must be at least 0"):
        logit_adjustment(logits, labels, counts, tau=-1.0)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("corrected", [True, False])
def test_softmatch_per_class_equals_float64(classes: int, corrected: bool):
    """A mean and a variance per predicted class; rare classes are missing from some batches, or there with one row."""
    rng, momentum, n_sigma = np.random.default_rng(classes), 0.8, 1.5
    args = {"momentum": momentum, "n_sigma": n_sigma, "per_class": True, "bias_correction": corrected}
    labeler = build_labeler(NAMES[:classes], torch.ones(classes), {"type": "softmatch", "args": args}, None, None)
    mean, variance = np.full(classes, 1 / classes), np.ones(classes)
    updates = np.zeros((2, classes))
    rows_seen = set()
    for _ in range(25):
        logits = rng.normal(0, 2, (12, classes)) - 3.0 * np.arange(classes)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        confidence, predicted = probs.max(axis=1), probs.argmax(axis=1)
        for c in range(classes):
            own = confidence[predicted == c]
            rows_seen.add(min(len(own), 2))
            for number, running, new in ((0, mean, own.mean), (1, variance, partial(own.var, ddof=1))):
                if len(own) > number:
                    n = updates[number, c]
                    k = min(momentum, n / (n + 1)) if corrected else momentum
                    running[c] = k * running[c] + (1 - k) * new()
                    updates[number, c] += 1
        below = np.minimum(confidence - mean[predicted], 0)
        weight = np.exp(-(below**2) / np.maximum(2 * variance[predicted] / n_sigma**2, 1e-12))
        labels = labeler(torch.from_numpy(logits).float())
        np.testing.assert_allclose(labels.weight, weight, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(labeler.threshold.per_class(classes), mean, rtol=1e-5)
        np.testing.assert_allclose(labeler.threshold.variance.value, variance, rtol=1e-4, atol=1e-7)
    assert rows_seen == {0, 1, 2}


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("warm", [True, False])
def test_flexmatch_equals_a_plain_loop_over_rows(classes: int, warm: bool):
    rng = np.random.default_rng(0)
    curriculum = threshold.flexmatch(classes, 30, value=0.7, thresh_warmup=warm)
    labeler = PseudoLabeler(NAMES[:classes], torch.ones(classes), curriculum)
    stored, beta = [-1] * 30, [0.0] * classes
    for _ in range(20):
        logits = torch.from_numpy(rng.normal(0, 3, (12, classes))).float()
        rows = rng.integers(0, 30, 12)
        probs = logits.softmax(dim=1)
        labels = labeler(logits, rows=torch.from_numpy(rows))
        for row, p, weight in zip(rows, probs, labels.weight):
            c = int(p.argmax())
            assert float(weight) == float(p[c] >= 0.7 * beta[c] / (2 - beta[c]))
            if p[c] >= 0.7:
                stored[row] = c
        counts = [stored.count(c) for c in range(classes)]
        most = max(*counts, stored.count(-1)) if warm else max(counts)
        beta = [n / most for n in counts] if most and any(counts) else beta
        assert curriculum.labels.tolist() == stored


def test_running_mean_forgets_its_start_only_with_bias_correction():
    values = torch.rand(200, 3, dtype=torch.float64).float()
    corrected, published = (RunningMean(torch.full((3,), 9.0), 0.99, correct) for correct in (True, False))
    for n, value in enumerate(values[:100], start=1):
        torch.testing.assert_close(corrected(value), values[:n].mean(dim=0))
        published(value)
    assert float(published.value.mean()) > 3
    held = corrected.value.clone()
    assert torch.equal(corrected(values[100], valid=torch.tensor(False)), held) and int(corrected.updates) == 100
    with pytest.raises(ValueError, match="momentum"):
        RunningMean(torch.zeros(()), 1.0)


def test_alignment_has_no_start_up_bias():
    """The first batch counts as much as each that follows; as published, it is 0.99^n of the mean."""
    first, later = torch.tensor([[0.5, 0.5]]).repeat(16, 1), torch.tensor([[0.9, 0.1]]).repeat(16, 1)
    rows = torch.ones(16)
    for make in (align.prior, align.estimated, align.uniform, align.crest_plus):
        found = {}
        for corrected in (True, False):
            aligner = make(torch.tensor([9.0, 1.0]), bias_correction=corrected)
            for step in range(51):
                probs = first if step == 0 else later
                aligned = aligner(probs, Labeled(probs, rows), 0.0)
            found[corrected] = (float(aligner.running[1]), aligned[0])
        assert found[True][0] == pytest.approx((0.5 + 50 * 0.1) / 51, abs=1e-5)
        assert found[False][0] == pytest.approx(0.1 + 0.4 * 0.99**50, abs=1e-5)
        if make is align.estimated:  # nothing is to be aligned where both kinds of rows are predicted alike
            torch.testing.assert_close(found[True][1], later[0], rtol=0, atol=1e-4)


def test_a_class_without_labels_is_one_row_for_alignment_and_not_the_smallest_class():
    counts = torch.tensor([90.0, 9.0, 0.0])
    torch.testing.assert_close(align.prior(counts).target, torch.tensor([0.9, 0.09, 0.01]))
    assert BalancedHead(torch.tensor([0.0, 20.0, 180.0])).keep.tolist() == pytest.approx([1, 1, 1 / 9])
    labeler = build_labeler(NAMES[:3], counts, FIXED, "prior", "logit_adjustment")
    logits = torch.eye(3)[[0] * 9 + [1, 2]] * 12
    for _ in range(3):
        labels = labeler(logits)
    assert int(labels.target[-1]) == 2, "a class that is certain does not become another one"


def test_what_moves_with_the_run_moves_with_its_steps(start):
    """CReST+'s target and how many rows the balanced head keeps."""
    trainer = start(3, balanced=True, threshold=FIXED, align="crest_plus")
    labeler, seen = trainer.labeler("label"), []
    keep = labeler.balanced.keep_unlabeled
    labeler.balanced.keep_unlabeled = lambda target, progress: seen.append(progress) or keep(target, progress)
    targets = []
    for step in (0, 5, 9):
        trainer.step = step
        train(trainer, range(1), 3)
        targets.append(float(labeler.align.target[0]))
    assert seen == [0.0, 0.5, 0.9] and targets[0] == pytest.approx(8 / 14, abs=1e-3)
    assert targets[0] - targets[1] > 0.05 < targets[1] - targets[2] + 0.03


@pytest.mark.parametrize("kind", ["FixMatchTrainer", "PseudoLabelTrainer", "MeanTeacherTrainer"])
def test_rows_that_pseudo_labels_are_read_from_have_no_dropout(kind: str, make_trainer, monkeypatch):
    trainer = make_trainer(
        FaceClassifier({"label": 3}, backbone="test_resnet", dropout=0.9),
        classes={"label": NAMES[:3]},
        trainer={"type": kind, "epochs": 2, "steps_per_epoch": 5, "ema": 0.9},
        optimizer={"type": "SGD", "args": {"lr": 0.0}},
    )
    trainer.normalize = lambda images: images
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    unlabeled = dict.fromkeys(("weak", "strong", "student", "teacher"), images[:8])
    data = {
        "labeled": {"image": images[8:], "target": {"label": torch.arange(4) % 3}, "row": torch.arange(4)},
        "unlabeled": {**unlabeled, "row": torch.arange(8)},
    }
    read = []
    for model in (trainer.model, trainer.ema.model):
        classify = model.classify
        monkeypatch.setattr(model, "classify", lambda x, classify=classify: read.append(x) or classify(x))
    trainer.network.train()
    trainer.train_on(data)
    trainer.train_on(data)
    # The weak rows come first in the one pass of FixMatch (with batch norm) and PseudoLabel; the teacher's is its own.
    passes = read[1::2] if kind == "MeanTeacherTrainer" else read
    assert len(passes) == 2
    if kind == "MeanTeacherTrainer":
        assert trainer.teacher.training and trainer.teacher.backbone.bn1.training
    torch.testing.assert_close(passes[0][:8], passes[1][:8], rtol=1e-3, atol=1e-4)


def test_rows_without_a_label_for_the_head_do_not_count():
    """AdaMatch's threshold and the estimated target come from the rows that this head has a label for."""
    labeler = build_labeler(NAMES[:2], torch.tensor([9.0, 1.0]), "adamatch", "estimated", None)
    labeled = torch.tensor([[2.0, 0.0], [0.0, 9.0], [1.0, 0.0]])
    labeler(torch.randn(8, 2), labeled, torch.tensor([0, -1, 1]))
    known = labeled[[0, 2]].softmax(dim=1)
    torch.testing.assert_close(labeler.align.target, known.mean(dim=0))
    torch.testing.assert_close(labeler.threshold.per_class(2), 0.95 * known.max(dim=1).values.mean().repeat(2))
    before = labeler.align.target.clone()
    labels = labeler(torch.randn(8, 2), labeled, torch.full((3,), -1))
    assert torch.equal(labeler.align.target, before) and 0 <= float(labels.weight.mean()) <= 1


def test_crest_plus_temperature():
    smooth, stepped = align.crest_plus(torch.ones(2)), align.crest_plus(torch.ones(2), generations=3, t_min=0.2)
    assert [smooth.t(p) for p in (0.0, 0.5, 1.0)] == [1.0, 0.75, 0.5]
    assert [round(stepped.t(p), 6) for p in (0.0, 0.3, 0.4, 0.7, 1.0)] == [1.0, 1.0, 0.6, 0.2, 0.2]


# Several processes ---------------------------------------------------------------------------------------------------

SHARED = ["flexmatch", "freematch", "softmatch", "softmatch per class", "adamatch", "crest_plus", "debiaspl", "simpro"]
SHARED += ["saw", "everything"]
SOME = torch.arange(UNLABELED).div(3, rounding_mode="floor").where(torch.arange(UNLABELED) % 3 == 0, -1)


def shared_labeler(method: str, rows: int, places: Tensor | None) -> PseudoLabeler:
    switches = {"threshold": FIXED, "align": None, "debias": None, **METHODS[method]}
    return build_labeler(NAMES[:3], torch.tensor([6.0, 3.0, 1.0]), **switches, unlabeled_rows=rows, row_places=places)


def shared_steps(method: str, rank: int, size: int, places: Tensor | None) -> dict[str, Tensor]:
    """Four steps on this process's rows; its state, weights and gradient of the strong view."""
    rng = torch.Generator().manual_seed(1)
    labeler = shared_labeler(method, UNLABELED if places is None else int((places >= 0).sum()), places)
    for step in range(4):
        weak, strong = (2 * torch.randn(24, 3, generator=rng)[rank::size] for _ in range(2))
        labeled, target = 2 * torch.randn(8, 3, generator=rng)[rank::size], torch.arange(-1, 3).repeat(2)[rank::size]
        rows = torch.randperm(UNLABELED, generator=rng)[:24][rank::size]
        labels = labeler(weak, labeled, target, rows, step / 4)
        strong = strong.contiguous().requires_grad_()
        losses = labeler.further_losses("x", {}, {"x": strong}, labels)
        (labeler.consistency_loss(strong, labels) + sum(losses)).backward()
    state = {name: value.clone() for name, value in labeler.state_dict().items()}
    return {**state, "weight": labels.weight, "gradient": strong.grad}


def process(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    found = {
        (method, some): shared_steps(method, rank, size, SOME if some else None)
        for method in SHARED
        for some in (False, True)
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_agree_on_running_statistics_and_gradients(tmp_path):
    mp.start_processes(process, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for method, some in itertools.product(SHARED, (False, True)):
        alone = shared_steps(method, 0, 1, SOME if some else None)
        first, second = (of_rank[method, some] for of_rank in found)
        for name, value in alone.items():
            if name in ("weight", "gradient"):
                together = torch.empty_like(value)
                # A process's loss is a mean over its own rows; DDP then averages over processes.
                together[::2], together[1::2] = (x[name] / (2 if name == "gradient" else 1) for x in (first, second))
                torch.testing.assert_close(together, value, rtol=1e-4, atol=1e-6)
            elif name != "threshold.stored":
                assert torch.equal(first[name], second[name]), f"{method}: {name} differs"
                torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def total_loss(labeler: PseudoLabeler, weak: Tensor, strong: Tensor, labels: PseudoLabels) -> Tensor:
    further = labeler.further_losses("x", {"x/balanced": weak}, {"x": strong, "x/balanced": strong}, labels)
    return labeler.consistency_loss(strong, labels) + sum(further)


@pytest.mark.parametrize("method", SHARED)
def test_a_head_of_some_rows_is_that_of_a_run_with_these_alone(method: str):
    """Targets, weights, running statistics, loss and sums; a step without such a row moves and adds nothing."""
    rng = torch.Generator().manual_seed(2)
    learned = int((SOME >= 0).sum())
    mixed, alone = (shared_labeler(method, learned, places) for places in (SOME, None))
    mixed.balanced = alone.balanced = BalancedHead(torch.tensor([6.0, 3.0, 1.0]), 0.6)
    sums = Sums(torch.device("cpu")), Sums(torch.device("cpu"))
    for step in range(4):
        weak, strong = (2 * torch.randn(24, 3, generator=rng) for _ in range(2))
        labeled, target = 2 * torch.randn(8, 3, generator=rng), torch.arange(-1, 3).repeat(2)
        rows = torch.randperm(UNLABELED, generator=rng)[:24]
        if step == 2:
            rows = torch.where(SOME < 0)[0][:24]
            weak, strong = weak[: len(rows)], strong[: len(rows)]
        kept = SOME[rows] >= 0
        strong, few = strong.requires_grad_(), strong.detach()[kept].requires_grad_()
        found = mixed(weak, labeled, target, rows, step / 4)
        mixed.add_to(sums[0], "x", found, target.new_full((len(rows),), -1))
        loss = total_loss(mixed, weak, strong, found)
        if not kept.any():
            assert float(loss.detach()) == 0 and not found.weight.any()
            continue
        wanted = alone(weak[kept], labeled, target, SOME[rows[kept]], step / 4)
        alone.add_to(sums[1], "x", wanted, target.new_full((len(few),), -1))
        expected = total_loss(alone, weak[kept], few, wanted)
        for own, other in ((found.target, wanted.target), (found.weight, wanted.weight)):
            assert torch.equal(own[kept], other) and not own[~kept].any()
        torch.testing.assert_close(loss, expected)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(strong.grad[kept], few.grad)
        assert not strong.grad[~kept].any()
    for own, other in ((mixed.state_dict(), alone.state_dict()), *[tuple(s.read() for s in sums)]):
        own.pop("x/batches", None), other.pop("x/batches", None)
        own.pop("x/threshold", None), other.pop("x/threshold", None)
        assert own.keys() == other.keys()
        for name, value in own.items():
            assert torch.equal(value, other[name]), name


# The commands --------------------------------------------------------------------------------------------------------


def test_a_run_with_every_switch_resumes_and_is_tested_on_its_balanced_head(tmp_path, tiny_faces, in_process):
    args = {"threshold": {"type": "flexmatch", "args": {"value": 0.6}}, "align": "estimated", "debias": "debiaspl"}
    config = write_config(
        tmp_path,
        tiny_faces,
        data_loader={"num_workers": 0},
        arch={"args": {"backbone": "test_efficientnet", "pretrained": False, "head": "abc"}},
        loss={"type": "cross_entropy", "args": {"class_weight": "saw"}},
        trainer={"args": {**args, "warm_up_epochs": 1}, "epochs": 3},
    )
    checked = in_process("train.py", "-c", str(config), "--check-resume")
    assert checked.code == 0 and "equal bit for bit" in checked.out, checked.out + checked.err
    assert in_process("train.py", "-c", str(config), "--run-id", "x").code == 0
    run_dir = tmp_path / "saved" / "tiny" / "x"
    with (run_dir / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[-1]["train/loss_further"]) >= 0
    assert in_process("test.py", "--resume", str(run_dir)).code == 0
    scores = json.loads((run_dir / "report" / "metrics.json").read_text())
    best = max(float(row["valid/macro_f1"]) for row in table)
    assert scores["heads"]["hue"]["macro_f1"] == pytest.approx(best, abs=1e-12)
