"""The report: scores against sklearn, honest intervals, votes, and a page that stands on its own."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from report import plots
from report.errors import Ages, describe_errors, error_taxonomy
from report.evaluation import HeadPrediction, evaluate_head, expected_calibration_error, joint_head, reliability
from report.plots import curve_groups
from report.pseudo_labels import pseudo_label_picture
from report.table import format_table
from report.vote import combine
from report.writer import write_report
from utils.errors import UserError


def make_head(labels, classes, seed=0, skill=1.5, name="hair") -> HeadPrediction:
    labels = np.asarray(labels, dtype=np.int64)
    logits = np.random.default_rng(seed).normal(size=(len(labels), len(classes)))
    known = np.flatnonzero(labels >= 0)
    logits[known, labels[known]] += skill
    probs = np.exp(logits)
    return HeadPrediction(name, tuple(classes), labels, probs / probs.sum(axis=1, keepdims=True))


def certain(labels, predictions, classes, confidence=0.9, name="hair") -> HeadPrediction:
    """A head that predicts exactly `predictions`, each with the same confidence."""
    rest = (1 - confidence) / (len(classes) - 1)
    probs = np.full((len(labels), len(classes)), rest)
    probs[np.arange(len(labels)), predictions] = confidence
    return HeadPrediction(name, tuple(classes), np.asarray(labels, dtype=np.int64), probs)


@pytest.mark.parametrize("absent", [None, 3])
def test_scores_equal_sklearn(absent):
    labels = np.random.default_rng(1).integers(-1, 5, 700)
    labels[labels == absent] = 0
    head = make_head(labels, "abcde")
    if absent is not None:
        head.probs[:, absent] = 0
        head.probs[:] /= head.probs.sum(axis=1, keepdims=True)
    result = evaluate_head(head, range(700), bootstrap=10)
    truth, predicted = labels[labels >= 0], head.predictions[labels >= 0]
    assert result["images"] == len(truth)
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    assert result["macro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    assert result["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, predicted))
    assert result["confusion"] == reference.confusion_matrix(truth, predicted, labels=range(5)).tolist()
    columns = reference.precision_recall_fscore_support(truth, predicted, labels=range(5), zero_division=np.nan)
    for index, name in enumerate("abcde"):
        row = result["per_class"][name]
        expected = [None if np.isnan(column[index]) else pytest.approx(column[index]) for column in columns]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == expected


def test_average_precision_of_each_class_equals_sklearn():
    labels = np.random.default_rng(8).integers(-1, 4, 300)
    labels[labels == 2] = 3
    head = make_head(labels, "abcd")
    result = evaluate_head(head, range(300), bootstrap=0)
    known = labels >= 0
    expected = [reference.average_precision_score(labels[known] == i, head.probs[known, i]) for i in (0, 1, 3)]
    assert [result["per_class"][name]["ap"] for name in "abd"] == pytest.approx(expected)
    assert result["per_class"]["c"]["ap"] is None
    assert result["mean_average_precision"] == pytest.approx(np.mean(expected))


def test_average_precision_is_that_of_the_rarer_class():
    labels = (np.random.default_rng(2).random(400) < 0.8).astype(int)
    head = make_head(labels, ["rare", "common"])
    expected = reference.average_precision_score(labels == 0, head.probs[:, 0])
    result = evaluate_head(head, range(400), bootstrap=0)
    assert result["average_precision"] == {"rare": pytest.approx(expected)}
    assert result["per_class"]["rare"]["ap"] == pytest.approx(expected)


def test_interval_is_that_of_resampled_groups():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 300)
    groups = np.array([f"p{number}" for number in rng.integers(0, 60, 300)])
    head = make_head(labels, "abc")
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    brute = []
    for _ in range(1500):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        brute.append(reference.f1_score(labels[rows], head.predictions[rows], average="macro"))
    result = evaluate_head(head, groups, bootstrap=4000, seed=5)
    assert result["groups"] == len(members)
    assert result["ci95"]["macro_f1"] == pytest.approx(list(np.percentile(brute, [2.5, 97.5])), abs=0.012)
    assert evaluate_head(head, groups, bootstrap=4000, seed=5) == result


def test_copies_of_a_photo_do_not_narrow_the_interval():
    """100 persons with 9 equal photos tell as much as 100 photos; taken as 900 images they would seem 3 times surer."""
    one = make_head(np.random.default_rng(4).integers(0, 2, 100), ["a", "b"], skill=0.8)
    nine = HeadPrediction("hair", one.classes, np.repeat(one.labels, 9), np.repeat(one.probs, 9, axis=0))

    def width(head, groups):
        low, high = evaluate_head(head, groups, bootstrap=3000)["ci95"]["accuracy"]
        return high - low

    assert width(nine, np.repeat(np.arange(100), 9)) == pytest.approx(width(one, range(100)), rel=0.1)
    assert width(nine, range(900)) == pytest.approx(width(one, range(100)) / 3, rel=0.15)


def test_missing_group_ids_are_groups_of_their_own():
    head = make_head([0, 1] * 30, ["a", "b"])
    assert evaluate_head(head, [None] * 58 + ["x", "x"], bootstrap=10)["groups"] == 59
    alone = evaluate_head(head, ["x"] * 60)
    assert alone["ci95"] == {"accuracy": None, "macro_f1": None, "balanced_accuracy": None}
    assert alone["warnings"] == ["all labeled images belong to one group: the scores have no interval"]


def test_calibration_error_by_hand():
    # 60 images at 0.9, 48 of them right: gap 0.1; 40 at 0.6, 30 right: gap 0.15; together 0.6 * 0.1 + 0.4 * 0.15.
    surer = certain([0] * 48 + [1] * 12, [0] * 60, "ab", 0.9)
    less = certain([1] * 30 + [0] * 10, [1] * 40, "ab", 0.6)
    both = [np.concatenate(parts) for parts in ((surer.labels, less.labels), (surer.probs, less.probs))]
    bins = reliability(HeadPrediction("hair", ("a", "b"), *both))
    assert expected_calibration_error(bins) == pytest.approx(0.12)
    assert bins["count"].sum() == 100 and bins["accuracy"].dropna().tolist() == pytest.approx([0.75, 0.8])


def test_collapse_is_said_and_nothing_is_nan():
    labels = [0] * 850 + [1] * 50
    result = evaluate_head(certain(labels, [0] * 900, ["shown", "covered", "hat"]), range(900))
    assert result["warnings"] == [
        "all 900 predictions are 'shown'",
        "no image is labeled 'hat': recall is unknown there",
    ]
    assert result["per_class"]["covered"] == {
        "precision": None,
        "recall": 0.0,
        "f1": 0.0,
        "support": 50,
        "ap": 50 / 900,
    }
    assert result["per_class"]["hat"] == {"precision": None, "recall": None, "f1": None, "support": 0, "ap": None}
    assert result["macro_f1"] == pytest.approx((2 * 850 / 1750) / 2)
    json.dumps(result, allow_nan=False)
    table = format_table({"heads": {"forehead": result}, "joint": None, "warnings": []})
    assert "! all 900 predictions are 'shown'" in table
    never = evaluate_head(certain([0, 1, 2] * 20, [0, 1, 1] * 20, "abc"), range(60))
    assert never["warnings"] == ["never predicted, though labeled: 'c' (20 images)"]


def test_unusable_input_is_refused():
    with pytest.raises(UserError, match="'hair': none of the 2 images is labeled"):
        evaluate_head(certain([-1, -1], [0, 1], "ab"), [0, 1])
    broken = np.array([[0.5, 0.5], [np.nan, np.nan]])
    with pytest.raises(UserError, match="1 of 2 images is not a finite number"):
        HeadPrediction("hair", ("a", "b"), np.array([0, 1]), broken)
    with pytest.raises(ValueError, match="sum to 1"):
        HeadPrediction("hair", ("a", "b"), np.array([0, 1]), np.array([[3.0, -1.0], [0.2, 4.0]]))
    with pytest.raises(ValueError, match=r"-1\.\.1"):
        HeadPrediction("hair", ("a", "b"), np.array([0, 2]), np.full((2, 2), 0.5))


def test_joint_label_counts_as_the_competition_does():
    rng = np.random.default_rng(6)
    mask, gender, age = rng.integers(0, 3, 200), rng.integers(0, 2, 200), rng.integers(-1, 3, 200)
    heads = [
        make_head(mask, ["wear", "incorrect", "normal"], 1, name="mask"),
        make_head(gender, ["male", "female"], 2, name="gender"),
        make_head(age, ["<30", "30-59", ">=60"], 3, name="age"),
    ]
    joint = joint_head(heads)
    assert joint is not None
    assert joint.labels.tolist() == np.where(age < 0, -1, mask * 6 + gender * 3 + age).tolist()
    expected = heads[0].predictions * 6 + heads[1].predictions * 3 + heads[2].predictions
    assert joint.predictions.tolist() == expected.tolist()
    assert joint.classes[0] == "wear/male/<30" and joint.classes[17] == "normal/female/>=60"
    assert joint_head(heads[:1]) is None


def test_votes():
    def head(rows, classes=("a", "b", "c"), labels=(0, 1)):
        return [HeadPrediction("hair", tuple(classes), np.array(labels), np.array(rows))]

    # Row 0: two weak votes for b against one strong for a. Row 1: a, b, c get one vote each; c is likelier on average.
    checkpoints = [
        head([[0.98, 0.01, 0.01], [0.5, 0.1, 0.4]]),
        head([[0.4, 0.5, 0.1], [0.05, 0.5, 0.45]]),
        head([[0.4, 0.5, 0.1], [0.05, 0.05, 0.9]]),
    ]
    soft, hard = combine(checkpoints, "soft")[0], combine(checkpoints, "hard")[0]
    assert soft.predictions.tolist() == [0, 2]
    assert soft.probs[0] == pytest.approx([1.78 / 3, 1.01 / 3, 0.07])
    assert hard.predictions.tolist() == [1, 2]
    assert hard.probs[0].tolist() == [1 / 3, 2 / 3, 0]
    assert hard.probs[1] == pytest.approx([1 / 3] * 3, abs=1e-5)
    assert combine(checkpoints[:1], "hard") == checkpoints[0]

    with pytest.raises(UserError, match=r"head 'hair'.*\['a', 'b', 'c'\].*checkpoint 2 has \['c', 'b', 'a'\]"):
        combine([checkpoints[0], head(np.full((2, 3), 1 / 3), "cba")])
    with pytest.raises(UserError, match="label 1 images differently"):
        combine([checkpoints[0], head(np.full((2, 3), 1 / 3), labels=(0, 2))])
    with pytest.raises(UserError, match=r"--vote sfot: .*did you mean 'soft'"):
        combine(checkpoints, "sfot")


def test_weights_count_in_both_votes():
    def head(rows):
        return [HeadPrediction("hair", ("a", "b"), np.array([0]), np.array(rows))]

    checkpoints = [head([[0.6, 0.4]]), head([[0.1, 0.9]]), head([[0.3, 0.7]])]
    assert combine(checkpoints, "soft", [3, 1, 1])[0].probs[0] == pytest.approx([2.2 / 5, 2.8 / 5])
    assert combine(checkpoints, "soft", [9, 1, 1])[0].predictions == [0]
    assert combine(checkpoints, "hard", [1.5, 1, 1])[0].probs[0] == pytest.approx([1.5 / 3.5, 2 / 3.5])
    # 0.1 + 0.2 votes against 0.3 are a tie, although the sums of the numbers are not equal; the mean decides.
    tied = combine(checkpoints, "hard", [0.3, 0.1, 0.2])[0]
    assert tied.probs[0] == pytest.approx([0.5, 0.5], abs=1e-5) and tied.predictions == [1]
    for weights, message in (
        ([1, 2], "--weights 1 2: 2 for 3 checkpoints; give one number for each"),
        ([1, 0, 1], "--weights 1 0 1: expected numbers greater than 0"),
        ([1, float("nan"), 1], "expected numbers greater than 0"),
    ):
        with pytest.raises(UserError, match=message):
            combine(checkpoints, "soft", weights)


def test_heads_of_several_checkpoints_complement_each_other():
    mask = [make_head([0, 1, 2], ["wear", "incorrect", "normal"], seed, name="mask") for seed in (1, 2)]
    gender, age = make_head([0, 1, 0], ["male", "female"], name="gender"), make_head([0, 1, 2], "abc", name="age")
    heads = combine([[age], [mask[0]], [gender], [mask[1]]])
    assert [head.name for head in heads] == ["mask", "gender", "age"]
    assert heads[0].probs == pytest.approx((mask[0].probs + mask[1].probs) / 2) and heads[1:] == [gender, age]
    assert [head.name for head in combine([[age, mask[0], gender], [mask[1]]])] == ["age", "mask", "gender"]
    weighted = combine([[age], [mask[0]], [gender], [mask[1]]], "soft", [1, 3, 1, 1])[0]
    assert weighted.probs == pytest.approx(0.75 * mask[0].probs + 0.25 * mask[1].probs)
    with pytest.raises(UserError, match="no head is in two of the checkpoints"):
        combine([[age], [gender]], "soft", [1, 2])
    with pytest.raises(UserError, match="head 'joint' and checkpoints with age"):
        combine([[make_head([0, 1, 2], "abc", name="joint")], [age]])


def test_table_is_aligned():
    labels = [0] * 1500 + [1] * 30
    result = evaluate_head(make_head(labels, ["이마 보임", "covered"]), range(1530))
    lines = format_table({"heads": {"forehead": result}, "joint": None, "warnings": ["a word"]}).splitlines()
    low, high = result["ci95"]["macro_f1"]
    assert lines[0] == "forehead: 1,530 labeled images"
    assert lines[1] == "  class      precision  recall     F1  support"
    assert lines[2].startswith("  이마 보임  ") and lines[2].endswith("  1,500")
    assert lines[3].startswith("  covered    ") and lines[3].endswith("       30")
    assert lines[4] == f"  macro F1 {result['macro_f1']:.3f} (95 % interval {low:.3f} to {high:.3f})"
    assert lines[-1] == "! a word"


def test_curves_are_grouped_by_what_they_measure():
    columns = {
        "epoch": [1, 2],
        "train/loss": [1.0, 0.5],
        "train/hair/threshold/b": [0.9, 0.9],
        "train/hair/pseudo/b": ["", 0.1],
        "train/hair/pseudo/a<1": ["", 0.9],
        "train/hair/pass_rate": ["", 0.5],
        "valid/accuracy": [0.5, 0.6],
        "valid/hair/accuracy": [0.5, 0.6],
        "valid/loss": [1.0, float("inf")],
        "train/empty": ["", ""],
        "lr": [0.1, 0.1],
        "seconds": [1, 1],
    }
    groups = curve_groups(pd.DataFrame(columns), ["a<1", "b"])
    assert groups == {
        "loss": {"train/loss": "train", "valid/loss": "valid"},
        "train/hair/threshold by class": {"train/hair/threshold/b": "b"},
        "train/hair/pseudo by class": {"train/hair/pseudo/a<1": "a<1", "train/hair/pseudo/b": "b"},
        "pass_rate": {"train/hair/pass_rate": "train/hair"},
        "accuracy": {"valid/accuracy": "valid", "valid/hair/accuracy": "valid/hair"},
        "learning rate": {"lr": "lr"},
    }
    assert list(groups["train/hair/pseudo by class"].values()) == ["a<1", "b"]


PSEUDO = {
    "epoch": [1, 2, 3],
    "step": [5, 10, 15],
    "train/loss_unlabeled": ["", 0.2, 0.1],
    "train/lambda_u": ["", 0.5, 1.0],
    "train/hair/macro_f1": [0.5, 0.6, 0.7],
    "train/hair/pass_rate": ["", 0.9, 0.8],
    "train/hair/pass_rate/<a>": ["", 0.95, 0.875],
    "train/hair/pseudo/<a>": ["", 0.99, 0.98],
    "train/hair/pseudo/b": ["", 0.01, 0.02],
    "train/hair/expected/<a>": ["", 0.9, 0.9],
    "train/hair/expected/b": ["", 0.1, 0.1],
    "train/hair/pseudo_precision/<a>": ["", 0.9, 0.8125],
    "train/hair/pseudo_recall/b": ["", 0.1, 0.375],
    "valid/hair/recall/b": [0.2, 0.25, 0.625],
    "train/warnings": ["", 1, 0],
    "lr": [0.1, 0.1, 0.1],
}


def test_pseudo_labels_have_a_section_with_the_last_epoch_and_the_warnings(tmp_path: Path):
    table = tmp_path / "metrics.csv"
    pd.DataFrame(PSEUDO).to_csv(table, index=False)
    head = make_head([0] * 12 + [1] * 6, ["<a>", "b"])
    rows = pd.DataFrame({"path": [f"{i}.jpg" for i in range(18)], "group": range(18), "split": "valid"})
    given = {"split": "valid", "checkpoints": ["x"], "root": tmp_path, "title": "t", "metrics_csv": table}
    write_report(tmp_path / "out", rows, [head], **given)
    page = (tmp_path / "out" / "index.html").read_text()
    section = page[page.index('<section id="pseudo-labels.hair">') : page.index('<section id="training.curves">')]
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    assert cells == [
        ["class", "share", "should be", "accepted", "precision", "recall", "recall, valid"],
        ["&lt;a&gt;", "0.980", "0.900", "0.875", "0.812", "–", "–"],
        ["b", "0.020", "0.100", "–", "–", "0.375", "0.625"],
    ]
    assert "warned after epoch 2 (" in section and section.count("<img") == 6
    assert 'href="#pseudo-labels.hair"' in page
    training = page[page.index('<section id="training.curves">') :]
    assert 'alt="macro_f1 over' in training and "pass_rate" not in training and "pseudo" not in training
    assert (tmp_path / "out" / "pseudo_hair_pass_rate.png").stat().st_size > 1000
    picture = pseudo_label_picture(pd.DataFrame(PSEUDO), "hair", ["<a>", "b"])
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 5


def mistakes() -> tuple[list[HeadPrediction], list[str], Ages]:
    """Six images of three persons: one all right, one wrong in gender and age, two in the mask, one in all three."""
    mask = certain([0, 0, 1, 0, 2, 2], [0, 0, 0, 1, 2, 0], ["wear", "incorrect", "normal"], name="mask")
    gender = certain([0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 1], ["male", "female"], name="gender")
    age = certain([0, 0, 1, 1, -1, 2], [0, 1, 1, 1, 2, 0], ["<30", "30-59", ">=60"], name="age")
    years = np.array([20, 28, 30, 57, np.nan, 66])
    return [mask, gender, age], ["p1", "p1", "p2", "p2", "p3", "p3"], Ages(years, [30, 60], 2)


def test_kinds_of_mistakes_by_hand():
    heads, groups, ages = mistakes()
    errors = error_taxonomy(heads, groups, ages)
    assert errors["images"] == 5 and errors["wrong_at_once"] == {"0": 1, "1": 2, "2": 1, "3": 1}
    assert errors["combinations"] == {"mask": 2, "gender + age": 1, "mask + gender + age": 1}
    assert errors["attributes"]["mask"] == {
        "images": 6,
        "wrong": 3,
        "groups_wrong": 2,
        "pairs": [
            {"classes": ["wear", "incorrect"], "images": 2, "groups": 1},
            {"classes": ["wear", "normal"], "images": 1, "groups": 1},
        ],
    }
    near = {"near_years": 2, "boundaries": [30, 60], "images": 5, "images_near": 2, "wrong": 2, "wrong_near": 1}
    assert errors["age"] == near
    assert error_taxonomy(heads, groups, Ages(ages.years, [30, 60], 3))["age"]["images_near"] == 3
    said = describe_errors(errors)
    assert said[0] == "attributes wrong at once, of 5 images with all labels: 0: 1, 1: 2, 2: 1, 3: 1"
    assert "mask: 3 of 6 wrong in 2 groups: wear ↔ incorrect 2, wear ↔ normal 1" in said
    assert said[-1] == "age, at most 2 years from 30 or 60: 1 of 2 mistakes, 2 of 5 images"


def test_a_joint_head_makes_the_same_kinds_of_mistakes_as_its_parts():
    heads, groups, ages = mistakes()
    joint = joint_head(heads)
    assert joint is not None
    parts, whole = error_taxonomy(heads, groups, ages), error_taxonomy([joint], groups, ages)
    for key in ("images", "wrong_at_once", "combinations", "age"):
        assert whole[key] == parts[key]
    # The image without an age has no joint label; it had no mistake.
    assert whole["attributes"]["gender"]["pairs"] == parts["attributes"]["gender"]["pairs"]
    assert describe_errors(error_taxonomy(heads[:1], groups)) == []


@pytest.fixture
def report(tmp_path: Path):
    """A report with two heads and awkward names; returns its folder, metrics and heads."""
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    paths = [f"a/<b>{number}.png" for number in range(80)]
    for number, path in enumerate(paths[:60]):
        cv2.imwrite(str(root / path), np.full((300, 200, 3), number * 4, np.uint8))
    (root / paths[60]).write_bytes(b"not an image")
    rng = np.random.default_rng(7)
    rows = pd.DataFrame({"path": paths, "group": rng.integers(0, 30, 80), "split": "valid", "labeled": True})
    rows.index = rows.index + 1000
    heads = [
        make_head(rng.integers(0, 2, 80), ["$x_{$", "<i>&"], 1, 0.5, name="fore/head"),
        make_head(np.where(np.arange(80) < 20, -1, rng.integers(0, 3, 80)), "abc", 2, name="age"),
    ]
    curves = tmp_path / "metrics.csv"
    curves.write_text(
        "epoch,step,train/loss,valid/macro_f1,train/age/pseudo/a,lr\n1,9,0.5,0.1,,0.1\n2,18,0.4,,0.2,0.1\n"
    )
    metrics = write_report(
        tmp_path / "run" / "report",
        rows,
        heads,
        split="valid",
        checkpoints=["saved/best.pth"],
        root=root,
        title="<script>alert(1)</script>",
        notes=["the data has <changed>"],
        metrics_csv=curves,
    )
    return tmp_path / "run" / "report", metrics, heads


def test_report_files(report):
    folder, metrics, heads = report
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (metrics["images"], metrics["split"], metrics["checkpoints"]) == (80, "valid", ["saved/best.pth"])
    assert list(metrics["heads"]) == ["fore/head", "age"] and metrics["heads"]["age"]["images"] == 60
    assert sum(map(sum, metrics["joint"]["confusion"])) == 60
    pictures = {
        *(f"{kind}_{head}.png" for kind in ("confusion", "reliability") for head in ("fore_head", "age", "joint")),
        *(f"curve_{title}.png" for title in ("loss", "macro_f1", "train_age_pseudo_by_class", "learning_rate")),
    }
    assert {file.name for file in folder.iterdir()} == pictures | {"metrics.json", "predictions.csv", "index.html"}
    assert all(cv2.imread(str(folder / name)) is not None for name in pictures)

    table = pd.read_csv(folder / "predictions.csv", keep_default_na=False, dtype=str)
    assert list(table.columns) == [
        *("path", "split", "fore/head/label", "fore/head/prediction", "fore/head/confidence", "fore/head/p/$x_{$"),
        *("fore/head/p/<i>&", "age/label", "age/prediction", "age/confidence", "age/p/a", "age/p/b", "age/p/c"),
        *("joint/label", "joint/prediction", "joint/confidence"),
    ]
    fore = heads[0]
    both = [f"{fore.classes[a]}/{'abc'[b]}" for a, b in zip(fore.predictions, heads[1].predictions)]
    assert table["joint/prediction"].tolist() == both
    assert np.allclose(table["joint/confidence"].astype(float), fore.confidence * heads[1].confidence)
    assert (table["joint/label"] == "").sum() == 20
    age = heads[1]
    assert table["age/label"].tolist() == ["abc"[label] if label >= 0 else "" for label in age.labels]
    assert table["age/prediction"].tolist() == ["abc"[index] for index in age.predictions]
    assert np.array_equal(table[["age/p/a", "age/p/b", "age/p/c"]].astype(float), age.probs)


def test_page_is_escaped_and_self_contained(report):
    folder, metrics, _ = report
    html = (folder / "index.html").read_text()
    assert "<script" not in html and "<i>&" not in html.replace("&lt;i&gt;&amp;", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "the data has &lt;changed&gt;" in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:", "file:", "#")) for source in sources) and "http" not in html
    targets = {source[1:] for source in sources if source.startswith("#")}
    assert targets <= set(re.findall(r'id="([^"]*)"', html))
    for metric in ("macro_f1", "accuracy"):
        low, high = metrics["heads"]["age"]["ci95"][metric]
        assert f"95 %: {low:.3f} to {high:.3f}" in html


def test_gallery_shows_the_surest_mistakes_first(report):
    folder, _, heads = report
    html = (folder / "index.html").read_text()
    head = heads[0]
    wrong = np.flatnonzero((head.labels == 0) & (head.predictions == 1))
    order = wrong[np.argsort(-head.confidence[wrong])]
    cell = html.split('id="fore_head.0.1"')[1].split("<h4")[0].split("<h3")[0]
    assert re.findall(r"<span>\w+/&lt;b&gt;(\d+)\.png</span>", cell) == [str(row) for row in order[:24]]
    assert cell.count("no image") == (order[:24] >= 60).sum() > 0
    assert cell.count("data:image/jpeg") == (order[:24] < 60).sum() > 0


def test_heads_without_labels_are_named_and_an_unlabeled_split_is_refused(tmp_path):
    rows = pd.DataFrame({"path": ["x.jpg"] * 30, "group": range(30), "split": "test"})
    heads = [make_head([0, 1] * 15, "ab", name="age"), make_head([-1] * 30, "ab", name="mask")]
    damaged = tmp_path / "metrics.csv"
    damaged.write_text('epoch,lr\n1,"2\n')
    write = functools.partial(write_report, split="test", checkpoints=["a", "b"], root=tmp_path, title="t")
    metrics = write(tmp_path / "report", rows, heads, metrics_csv=damaged)
    assert "metrics.csv cannot be read" in (tmp_path / "report" / "index.html").read_text()
    assert list(metrics["heads"]) == ["age"] and metrics["joint"] is None
    assert metrics["warnings"] == ["head 'mask' has no labeled image in split 'test': it is not scored"]
    assert "mask/p/b" in pd.read_csv(tmp_path / "report" / "predictions.csv").columns
    with pytest.raises(UserError, match="split 'test': none of its 30 images is labeled for 'mask'"):
        write(tmp_path / "nothing", rows, heads[1:])
    assert not (tmp_path / "nothing").exists()


def test_korean_names_are_drawn_where_a_font_has_them(monkeypatch):
    installed = [SimpleNamespace(name=name) for name in ("DejaVu Sans", "NanumGothic", "Comic Sans")]
    monkeypatch.setattr(plots.font_manager, "fontManager", SimpleNamespace(ttflist=installed))
    plots.fonts.cache_clear()
    try:
        assert plots.fonts() == ["DejaVu Sans", "NanumGothic"]
    finally:
        plots.fonts.cache_clear()
