"""Temperature and thresholds: against hand-computed, brute-force and sklearn numbers; the file; the honest figure."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, log_loss

from report.calibration import (
    HeadCalibration,
    calibration_scores,
    fit_calibration,
    fit_head,
    fit_temperature,
    fit_thresholds,
    split_in_half,
)
from report.evaluation import HeadPrediction, evaluate_head, joint_head
from tests.test_report import make_head


def logs_of(head: HeadPrediction) -> np.ndarray:
    return np.log(head.probs)


def test_temperature_by_hand():
    """Sure to 0.9 and right in 3 of 4: softmax(logit 0.9 / T) must be 0.75, so T = log 9 / log 3 = 2."""
    logs = np.log(np.tile([0.9, 0.1], (4, 1)))
    assert fit_temperature(logs, np.array([0, 0, 0, 1])) == pytest.approx(2.0, abs=1e-9)
    head = HeadPrediction("hair", ("a", "b"), np.array([0, 0, 0, 1]), np.exp(logs))
    calibrated = fit_head(head, ["temperature"]).apply(head)
    assert calibrated.probs == pytest.approx(np.tile([0.75, 0.25], (4, 1)))
    assert calibrated.predictions.tolist() == head.predictions.tolist()
    before, after = calibration_scores(head), calibration_scores(calibrated)
    assert (before["ece"], after["ece"]) == (pytest.approx(0.15), pytest.approx(0.0, abs=1e-9))
    assert before["nll"] == pytest.approx(log_loss(head.labels, head.probs))
    assert fit_temperature(logs, np.array([0, 0, 0, 0])) == pytest.approx(0.05)  # nothing speaks against certainty
    assert fit_temperature(logs[:0], np.array([], dtype=np.int64)) == 1.0


def test_temperature_is_the_minimum_of_the_loss():
    head = make_head(np.random.default_rng(0).integers(0, 4, 300), "abcd", skill=1.0)
    sharp = np.log(head.probs) * 3
    found = fit_temperature(sharp, head.labels)

    def loss(temperature):
        return calibration_scores(HeadCalibration(temperature / 3).apply(head))["nll"]

    assert 2 < found < 6
    assert all(loss(found) <= loss(found * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_thresholds_of_two_classes_are_exact():
    rng = np.random.default_rng(1)
    for seed in range(2):
        labels = (rng.random(120) < 0.1).astype(int)
        head = make_head(labels, "ab", seed, skill=1.0)
        margin = logs_of(head)[:, 1] - logs_of(head)[:, 0]
        cuts = np.concatenate([[-np.inf], np.sort(margin)])
        best = max(f1_score(labels, margin > cut, average="macro", zero_division=0) for cut in cuts)
        offsets = fit_thresholds(logs_of(head), labels)
        decided = (logs_of(head) + offsets).argmax(axis=1)
        assert f1_score(labels, decided, average="macro") == pytest.approx(best)
        assert offsets[0] == 0


def test_thresholds_of_three_classes_cannot_be_improved_one_at_a_time():
    labels = np.random.default_rng(2).choice(3, 150, p=[0.8, 0.15, 0.05])
    head = make_head(labels, "abc", 3, skill=1.2)
    logs = logs_of(head)

    def value(offsets):
        return f1_score(labels, (logs + offsets).argmax(axis=1), average="macro")

    offsets = fit_thresholds(logs, labels)
    assert value(offsets) > value(np.zeros(3)) + 0.02
    for index, change in product(range(3), np.linspace(-3, 3, 41)):
        assert value(offsets + change * np.eye(3)[index]) <= value(offsets) + 1e-12


def test_a_class_without_labels_is_left_alone_and_equal_rows_cannot_be_parted():
    logs = np.log(np.array([[0.6, 0.3, 0.1]] * 4 + [[0.2, 0.7, 0.1]] * 4))
    assert fit_thresholds(logs, np.array([0] * 4 + [1] * 4)).tolist() == [0, 0, 0]
    # Two of four equal rows are b: whatever the offset, they are all a or all b.
    offsets = fit_thresholds(logs, np.array([0, 0, 1, 1, 1, 1, 1, 1]))
    decided = (logs + offsets).argmax(axis=1)
    assert len(set(decided[:4])) == 1 and offsets[2] == 0
    assert fit_thresholds(logs, np.zeros(8, dtype=np.int64)).tolist() == [0, 0, 0]


def test_decisions_go_with_probabilities_that_stay():
    head = HeadPrediction("mask", ("a", "b"), np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
    moved = HeadCalibration(1.0, (0.0, 0.5)).apply(head)  # b from a probability of 1 / (1 + e^0.5) = 0.378 on
    assert moved.predictions.tolist() == [0, 1, 1] and head.predictions.tolist() == [0, 0, 1]
    assert moved.probs == pytest.approx(head.probs) and moved.confidence.tolist() == pytest.approx([0.9, 0.4, 0.8])
    assert evaluate_head(moved, range(3), bootstrap=0)["accuracy"] == 1
    other = HeadPrediction("gender", ("m", "f"), np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]]))
    joint = joint_head([moved, other])
    assert joint is not None and joint.predictions.tolist() == [0, 2, 2]
    assert joint.probs[1] == pytest.approx([0.42, 0.18, 0.28, 0.12])


def test_the_cross_fitted_score_is_that_of_images_that_the_fit_has_not_seen():
    rng = np.random.default_rng(4)
    labels = rng.choice(4, 240, p=[0.7, 0.15, 0.1, 0.05])
    groups = [f"p{i // 3}" for i in range(240)]
    head = make_head(labels, "abcd", 5, skill=0.3)
    fit = fit_calibration([head], groups, ["temperature", "thresholds"])
    half = split_in_half([head], groups)
    assert len({(g, h) for g, h in zip(groups, half)}) == 80 and half.sum() == 120

    def part(rows):
        return HeadPrediction("hair", head.classes, labels[rows], head.probs[rows])

    decided, probs = np.zeros(240, dtype=int), np.zeros((240, 4))
    for rows in (half, ~half):
        applied = fit_head(part(~rows), ["temperature", "thresholds"]).apply(part(rows))
        decided[rows], probs[rows] = applied.predictions, applied.probs
    scores = fit.scores["hair"]
    assert scores["cross_fitted"]["macro_f1"] == pytest.approx(f1_score(labels, decided, average="macro"))
    assert scores["cross_fitted"]["nll"] == pytest.approx(log_loss(labels, probs))
    assert scores["before"]["macro_f1"] == pytest.approx(f1_score(labels, head.predictions, average="macro"))
    applied = fit.heads["hair"].apply(head)
    assert scores["fitted"]["macro_f1"] == pytest.approx(f1_score(labels, applied.predictions, average="macro"))
    # On noise the fit promises more than it keeps: that is why the second figure is there.
    assert scores["fitted"]["macro_f1"] > scores["cross_fitted"]["macro_f1"] + 0.03
    assert fit_calibration([head], ["x"] * 240, ["thresholds"]).scores["hair"]["cross_fitted"] is None


def test_every_class_is_in_both_halves_as_far_as_its_groups_allow():
    labels = np.repeat([0, 1, 2], [40, 6, 2])
    half = split_in_half([make_head(labels, "abc")], range(48))
    assert [half[labels == index].sum() for index in range(3)] == [20, 3, 1]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Drawing diagrams is most of a test's time and tested elsewhere."""
    monkeypatch.setattr("report.plots.figure_png", lambda figure: b"png")


def test_a_fit_is_written_reported_and_applied(face_models, tmp_path, in_process):
    def test(*arguments, code=0):
        done = in_process("test.py", "--resume", *map(str, arguments), "-d", "cpu")
        assert done.code == code and "Traceback" not in done.err, done.err
        return done

    both, out = (face_models["mask"], face_models["gender"]), tmp_path / "fit"
    done = test(*both, "--fit", "thresholds", "temperature", "--out", out)
    file = out / "calibration.json"
    plain, fit = json.loads((out / "metrics.json").read_text()), json.loads(file.read_text())
    assert fit["methods"] == ["temperature", "thresholds"] and list(fit["heads"]) == ["mask", "gender"]
    assert plain["heads"]["mask"]["macro_f1"] == pytest.approx(fit["scores"]["mask"]["before"]["macro_f1"])
    assert plain["calibration"]["scores"] == fit["scores"] and set(fit["scores"]) == {"gender", "mask", "joint"}
    page = (out / "index.html").read_text()
    for said in (done.out, page):
        assert "mask: calibration error" in said and "cross-fitted" in said and "flatters" in said
    assert (out / "reliability_mask_cross_fitted.png").exists()

    done = test(*both, "--calibration", file, "--out", tmp_path / "on")
    after = json.loads((tmp_path / "on" / "metrics.json").read_text())
    assert "fitted on the images of valid" in done.out and after["calibration"]["file"] == str(file)
    for head in ("gender", "mask"):
        assert after["heads"][head]["macro_f1"] == pytest.approx(fit["scores"][head]["fitted"]["macro_f1"])
        assert after["heads"][head]["ece"] == pytest.approx(fit["scores"][head]["fitted"]["ece"])
    assert after["joint"]["accuracy"] == pytest.approx(fit["scores"]["joint"]["fitted"]["accuracy"])
    table = pd.read_csv(tmp_path / "on" / "predictions.csv")
    assert np.allclose(table.filter(like="mask/p/").sum(axis=1), 1)

    pictures = str(face_models["faces"] / "images")
    done = in_process(
        "predict.py",
        "--resume",
        *map(str, both),
        "--calibration",
        str(file),
        "--out",
        str(tmp_path / "p.csv"),
        pictures,
    )
    assert done.code == 0, done.err
    found = pd.read_csv(tmp_path / "p.csv")
    found.index = [f"images/{Path(path).name}" for path in found["path"]]
    assert (found.loc[table["path"], "mask/prediction"].to_numpy() == table["mask/prediction"]).all()
    assert np.allclose(found.loc[table["path"], "mask/p/wear"], table["mask/p/wear"], atol=1e-6)

    broken, foreign = tmp_path / "broken.json", tmp_path / "foreign.json"
    broken.write_text('{"format": 1}')
    fit["heads"]["mask"]["temperature"] = -1
    foreign.write_text(json.dumps(fit))
    for arguments, message in (
        ((*both, "--calibration", file, "--tta", "hflip"), "it was fitted for no --tta"),
        ((face_models["mask"], "--calibration", file), "it was fitted for other checkpoints"),
        ((*both, face_models["mask2"], "--calibration", file), "other checkpoints"),
        ((*both, "--calibration", file, "-s", "views.size=32"), "not with views.size: 24 -> 32"),
        ((*both, "--calibration", broken), "not a calibration that test.py --fit wrote: predictor"),
        ((*both, "--calibration", foreign), "heads.mask.temperature"),
        ((*both, "--calibration", tmp_path / "none.json"), "no such file"),
        ((*both, "--fit", "temprature"), "--fit temprature: cannot be fitted; did you mean 'temperature'?"),
        ((*both, "--fit", "temperature", "--split", "train"), "leave out --split train"),
        ((*both, "--fit", "temperature", "--calibration", file), "leave one of them out"),
        ((*both, face_models["mask2"], "--fit", "thresholds", "--vote", "hard"), "use --vote soft"),
        ((*both, "--fit", "thresholds", "--submission", tmp_path / "s.csv"), "--fit: a submission is not scored"),
    ):
        assert message in test(*arguments, code=2).err


def test_a_fit_of_several_checkpoints_holds_for_them_in_any_order(face_models, tmp_path, in_process):
    one, two = str(face_models["mask"]), str(face_models["mask2"])
    given = ("test.py", "-d", "cpu", "--out", str(tmp_path), "--resume")
    assert in_process(*given, one, two, "--weights", "2", "1", "--fit", "temperature").code == 0
    file = str(tmp_path / "calibration.json")
    assert in_process(*given, two, one, "--weights", "1", "2", "--calibration", file).code == 0
    done = in_process(*given, two, one, "--weights", "2", "1", "--calibration", file)
    assert done.code == 2 and "it was fitted for other --weights" in done.err
