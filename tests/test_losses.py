"""The further losses against torch, scikit-learn and cases worked out by hand; samplers of rare classes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

from data_loader.sampler import make_stream
from model import loss
from tests.test_training import write_config
from trainer.build import build_trainer
from trainer.check_resume import check_resume
from trainer.components import KINDS, check_components
from utils.config import load_config
from utils.distributed import World
from utils.errors import ConfigError

COUNTS = torch.tensor([625.0, 81.0, 16.0])
Z = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.2, -0.1], [-1.0, 3.0, 1.0], [0.0, 0.0, 4.0]])
Y = torch.tensor([0, 2, 1, -1])
PROJECT = Path(__file__).resolve().parents[1]
OPTIONS = {
    "mixture": {"parts": [{"type": "focal", "args": {"gamma": 5.0}}, "soft_f1", "label_smoothing"]},
}


def logs(z: Tensor = Z[:3], y: Tensor = Y[:3]) -> Tensor:
    return -F.cross_entropy(z, y, reduction="none")


@pytest.mark.parametrize("name", loss.__all__)
def test_every_loss_is_per_row_finite_and_ignores_unlabeled_rows(name):
    classes = 2 if name == "bce" else 3
    torch.manual_seed(0)
    z = torch.randn(12, classes)
    z[3], z[7] = torch.tensor([80.0, -80.0, 0.0][:classes]), torch.tensor([-80.0, 80.0, 0.0][:classes])
    y = torch.arange(12) % (classes + 1) - 1
    counts = torch.tensor([9.0, 0.0, 3.0][:classes])
    function, options = getattr(loss, name), OPTIONS.get(name, {})
    z.requires_grad_()
    rows = function(z, y, counts, **options)
    assert rows.shape == (12,) and rows.dtype == torch.float32
    assert torch.isfinite(rows).all() and (rows[y >= 0] >= 0).all()
    assert (rows[y < 0] == 0).all()
    rows.sum().backward()
    assert torch.isfinite(z.grad).all()
    assert (z.grad[y < 0] == 0).all() and z.grad[y >= 0].abs().sum() > 0

    labeled = function(z.detach()[y >= 0], y[y >= 0], counts, **options)
    assert torch.allclose(labeled, rows[y >= 0], atol=1e-6)
    assert (function(z.detach(), torch.full((12,), -1), counts, **options) == 0).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert function(z.detach().bfloat16(), y, counts, **options).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in loss.__all__ if name != "bce"])
def test_a_step_down_the_gradient_lowers_the_loss(name):
    z = Z.clone().requires_grad_()
    before = getattr(loss, name)(z, Y, COUNTS, **OPTIONS.get(name, {})).sum()
    before.backward()
    after = getattr(loss, name)(z.detach() - 0.05 * z.grad, Y, COUNTS, **OPTIONS.get(name, {})).sum()
    assert after < before


def test_label_smoothing_is_torchs_over_all_classes():
    z, y = torch.randn(5, 18, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 17, 3, 9, 12])
    rows = loss.label_smoothing(z, y, torch.ones(18), smoothing=0.1)
    assert torch.allclose(rows, torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")(z, y))
    # The smoothed target has mass 1 whatever the number of classes: adding a constant to all logits changes nothing.
    assert torch.allclose(loss.label_smoothing(z + 7, y, torch.ones(18)), rows, atol=1e-5)


def test_bce_is_torchs_and_the_cross_entropy_of_two_classes():
    z, y, counts = Z[:, :2], torch.tensor([0, 1, 1, -1]), torch.tensor([30.0, 10.0])
    expected = torch.nn.BCEWithLogitsLoss(reduction="none")(z[:3, 1] - z[:3, 0], y[:3].float())
    assert torch.allclose(loss.bce(z, y, counts)[:3], expected)
    for class_weight in (None, "inverse", [1.0, 4.0]):
        rows = loss.cross_entropy(z, y, counts, class_weight=class_weight)
        assert torch.allclose(loss.bce(z, y, counts, class_weight=class_weight), rows, atol=1e-6)


def test_arcface_adds_an_angle_to_that_of_the_label():
    angles = torch.tensor([[0.4, 1.5, 2.0], [1.0, 2.2, 0.9], [3.1, 1.0, 0.2]], dtype=torch.float64)
    z = 10 * angles.cos().float()
    added = F.one_hot(torch.tensor([0, 1, 0]), 3) * 0.3
    expected = 10 * (angles + added).cos().float()
    assert torch.allclose(
        loss.arcface(z[:2], torch.tensor([0, 1]), COUNTS, margin=0.3, scale=10.0),
        -logs(expected[:2], torch.tensor([0, 1])),
        atol=1e-5,
    )
    assert torch.allclose(loss.arcface(z, Y[:3], COUNTS, margin=0.0, scale=10.0), -logs(z), atol=1e-4)
    # Where the angle and the margin are more than a half turn, the loss still rises with the angle.
    turned = torch.tensor([2.7, 2.84, 2.85, 3.0, 3.1, 3.14])
    z = torch.stack([10 * turned.cos(), torch.zeros(6), torch.zeros(6)], dim=1).requires_grad_()
    rows = loss.arcface(z, torch.zeros(6, dtype=torch.int64), COUNTS, margin=0.3, scale=10.0)
    assert (rows.diff() > 0).all() and float(rows.detach().diff()[1]) < 0.1
    rows.sum().backward()
    assert (z.grad[:, 0] < 0).all() and torch.isfinite(z.grad).all()


def test_ldam_takes_a_margin_of_the_fourth_root_from_the_label():
    # n^(-1/4) is 1/5, 1/3, 1/2; the rarest class gets max_margin.
    margins = 0.4 * torch.tensor([1 / 5, 1 / 3, 1 / 2]) / (1 / 2)
    shifted = Z[:3].clone()
    shifted[range(3), Y[:3]] -= margins[Y[:3]]
    rows = loss.ldam(Z, Y, COUNTS, max_margin=0.4, scale=30.0)
    assert torch.allclose(rows[:3], -logs(30 * shifted), atol=1e-4)
    assert torch.allclose(loss.ldam(Z, Y, COUNTS, max_margin=0.0)[:3], -logs(), atol=1e-6)


def test_deferred_weights_come_on_after_their_share_of_the_steps():
    """Cao et al. 2019, algorithm 1: margins from the start, effective-number weights from step 0.8 T on."""
    plain = loss.ldam(Z, Y, COUNTS)
    deferred = {"class_weight": "effective", "reweight_after": 0.8}
    for progress, weighted in ((None, False), (159 / 200, False), (160 / 200, True), (1.0, True)):
        done = None if progress is None else torch.zeros(()).fill_(progress)
        rows = loss.ldam(Z, Y, COUNTS, done, **deferred)
        by_hand = (1 - 0.999) / (1 - 0.999**COUNTS)
        by_hand = by_hand * COUNTS.sum() / (by_hand * COUNTS).sum()
        expected = plain[:3] * by_hand[Y[:3]] if weighted else plain[:3]
        assert torch.allclose(rows[:3], expected, rtol=1e-5), progress
        parts = [{"type": "ldam", "args": deferred}, "focal"]
        mixed = loss.mixture(Z, Y, COUNTS, done, parts=parts)
        assert torch.allclose(mixed, (rows + loss.focal(Z, Y, COUNTS)) / 2)


def test_deferred_weights_are_a_function_of_the_step_alone(tmp_path, tiny_faces):
    """Eight steps, the weights on from the fifth: stopped at the second, fourth and fifth, nothing changes."""
    deferred = {"type": "ldam", "args": {"class_weight": "inverse", "reweight_after": 0.5}}
    small = {"type": "SupervisedTrainer", "args": {}, "epochs": 2, "steps_per_epoch": 4}
    path = write_config(tmp_path, tiny_faces, trainer=small, loss=deferred, data_loader={"num_workers": 0})
    same, lines = check_resume(load_config(path), "cpu")
    assert same, lines
    trainer = build_trainer(load_config(path), torch.device("cpu"), World(), {}, tell=lambda _: None).trainer
    head, counts, seen = trainer.parts.losses["hue"][0], trainer.data.class_counts["hue"], []
    for _ in range(8):
        trainer.train_on(trainer.data.first_batch())
        seen.append(
            float(head(torch.zeros(1, 2), torch.tensor([0])) / loss.ldam(torch.zeros(1, 2), torch.tensor([0]), counts))
        )
    rare = float(counts.sum() / 2 / counts[0])
    assert seen == pytest.approx([1.0] * 4 + [rare] * 4) and rare > 1.5


def test_symmetric_cross_entropy_by_hand():
    p = logs().exp()
    rows = loss.symmetric_cross_entropy(Z, Y, COUNTS, alpha=0.3, beta=2.0, log_zero=-6.0)
    # -Σ p log q with log q = 0 at the label and log_zero elsewhere.
    assert torch.allclose(rows[:3], -0.3 * logs() + 2.0 * 6.0 * (1 - p), atol=1e-5)
    # At log_zero -2 the reverse cross entropy is the mean absolute error.
    mae = (Z[:3].softmax(1) - F.one_hot(Y[:3], 3)).abs().sum(1)
    assert torch.allclose(loss.symmetric_cross_entropy(Z, Y, COUNTS, alpha=0.0, log_zero=-2.0)[:3], mae, atol=1e-6)


def test_ordinal_is_the_squared_distance_of_cumulated_probabilities():
    z = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]).log()
    rows = loss.ordinal(z, torch.tensor([0, 1]), COUNTS)
    assert rows.tolist() == pytest.approx([0.5**2 + 0.2**2, 0.2**2 + 0.6**2], abs=1e-6)
    sure = 50 * torch.eye(3)
    assert loss.ordinal(sure, torch.zeros(3, dtype=torch.int64), COUNTS).tolist() == pytest.approx([0, 1, 2], abs=1e-6)


def test_soft_f1_of_sure_predictions_is_scikit_learns():
    rng = np.random.default_rng(0)
    for absent in (None, 17):
        true = rng.integers(0, 18, 200)
        true[true == absent] = 0
        found = np.where(rng.random(200) < 0.6, true, rng.integers(0, 18, 200))
        target = torch.from_numpy(np.where(np.arange(200) % 5 == 4, -1, true))
        labeled = target.numpy() >= 0
        sure = 100.0 * F.one_hot(torch.from_numpy(found), 18)
        rows = loss.soft_f1(sure, target, torch.ones(18))
        labels = sorted(set(true[labeled]))
        expected = 1 - f1_score(true[labeled], found[labeled], labels=labels, average="macro", zero_division=0)
        assert rows[labeled].mean().item() == pytest.approx(expected, abs=1e-5)
        assert rows[labeled].max() == rows[labeled].min() and (rows[~labeled] == 0).all()


def test_soft_f1_by_hand():
    z = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]).log()
    rows = loss.soft_f1(z, torch.tensor([0, 0, 1]), torch.ones(2))
    f1 = [2 * 1.2 / (1.5 + 2), 2 * 0.7 / (1.5 + 1)]
    assert rows.tolist() == pytest.approx([1 - sum(f1) / 2] * 3, abs=1e-6)


def test_mixture_is_the_weighted_sum_of_its_parts():
    parts = [{"type": "focal", "args": {"gamma": 5.0}}, "soft_f1", {"type": "mixture", "args": {"parts": ["ordinal"]}}]
    rows = loss.mixture(Z, Y, COUNTS, parts=parts, weights=[0.5, 0.3, 2.0])
    one, two, three = loss.focal(Z, Y, COUNTS, gamma=5.0), loss.soft_f1(Z, Y, COUNTS), loss.ordinal(Z, Y, COUNTS)
    assert torch.allclose(rows, 0.5 * one + 0.3 * two + 2.0 * three, atol=1e-6)
    assert torch.allclose(loss.mixture(Z, Y, COUNTS, parts=parts[:2]), (one + two) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("label_smoothing", {"smoothing": 0.0}, "at 0 nothing is smoothed: choose cross_entropy"),
        ("label_smoothing", {"smoothing": 1.0}, "below 1, not 1.0"),
        ("bce", {}, "two classes are needed, this head has 3"),
        ("arcface", {"margin": 1.6}, "margin must be in"),
        ("ldam", {"max_margin": -0.1}, "max_margin must be at least 0"),
        ("ldam", {"scale": 0.0}, "scale above 0"),
        ("ldam", {"reweight_after": 0.8}, "with a class_weight to switch on"),
        ("ldam", {"reweight_after": 1.0, "class_weight": "effective"}, "above 0 and below 1"),
        ("symmetric_cross_entropy", {"alpha": 0.0, "beta": 0.0}, "not both 0"),
        ("symmetric_cross_entropy", {"log_zero": 0.0}, "log_zero must be below 0"),
        ("mixture", {"parts": []}, "parts is empty; name at least one loss"),
        ("mixture", {"parts": ["focal"], "weights": [0.5, 0.5]}, "2 entries for 1 parts"),
        ("mixture", {"parts": ["focal"], "weights": [-1.0]}, "at least 0"),
        ("mixture", {"parts": ["bce", "focal"]}, "two classes are needed"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(loss, name)(Z, Y, COUNTS, **options)


@pytest.mark.parametrize("catalogue", [True, False], ids=["schema", "live"])
def test_the_parts_of_a_mixture_are_checked_with_the_config(tmp_path, catalogue):
    parts = ["focall", {"type": "focal", "args": {"gama": 2.0}}, {"type": "soft_f1", "weight": 2.0}]
    changes = {"extends": str(PROJECT / "configs" / "mask_joint.json"), "loss": {"args": {"parts": parts}}}
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(changes))
    with pytest.raises(ConfigError) as error:
        config = load_config(path) if catalogue else load_config(path, catalogue=None)
        check_components(config)
    text = str(error.value)
    assert "loss.args.parts[1].args.gama: focal has no argument 'gama'; did you mean 'gamma'?" in text
    assert "loss.args.parts[2].weight: unknown key" in text
    assert catalogue or "loss.args.parts[0]: no loss 'focall'; did you mean 'focal'?" in text
    with pytest.raises(ConfigError, match=r"loss\.args\.parts"):
        KINDS["loss"].build({"type": "mixture", "args": {"parts": 3}}, "loss", KINDS, class_counts=COUNTS)


def test_square_root_sampler_draws_classes_by_the_root_of_their_size():
    rows, classes = np.arange(300, 591), np.array([0] * 256 + [1] * 25 + [2] * 10)
    drawn = make_stream("square_root", rows, classes, seed=3, stream=1).take(0, 30_000)
    shares = np.bincount(classes[drawn - 300]) / len(drawn)
    roots = np.array([16, 5, math.sqrt(10)])
    assert np.abs(shares - roots / roots.sum()).max() < 0.01
    again = make_stream("square_root", rows, classes, seed=3, stream=1)
    assert list(again.take(1234, 50)) == list(drawn[1234:1284])
    assert list(make_stream("square_root", rows, classes, seed=4, stream=1).take(0, 50)) != list(drawn[:50])
