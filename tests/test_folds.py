"""Folds: who is in which, a split taken from another run, and a k-fold training that is killed and continued."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from base.base_trainer import BaseTrainer
from data_loader.data_sets import choose_attributes, join_data_sets
from data_loader.joint import join_attributes
from data_loader.prepare_labels import prepare_labels
from data_loader.split import check_leakage, make_fold_split, make_folds, make_split
from data_loader.split_file import write_split
from report.evaluation import HeadPrediction, evaluate_head
from report.fold_vote import format_vote, verdict
from tests.face_runs import CLASSES, draw_faces
from tests.test_split import by_path, frame_of, turned
from tests.test_training import PROJECT, write_config
from trainer import folds
from utils.config import Config, apply_overrides, config_from_dict
from utils.errors import UserError


def people(seed: int):
    """500 people with 1 to 11 photos; every tenth is of the rare class; a fifth of the photos is not labeled."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, 500)
    group = np.repeat(np.arange(500), sizes)
    x = (group % 10 == 0).astype(np.int64)
    y = rng.integers(0, 3, len(x))
    off = rng.random(len(x)) < 0.2
    return frame_of({"x": np.where(off, -1, x), "y": np.where(off, -1, y)}, [f"p{n}" for n in group])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 5])
def test_folds_keep_people_whole_and_share_every_class(seed, count):
    frame = people(seed)
    fold = make_folds(frame, count, None, seed)
    check_leakage(frame, fold)
    assert set(fold[frame.labeled]) == set(range(1, count + 1)) and fold.dtype == np.int64
    for name, names in frame.classes.items():
        for index in range(len(names)):
            counts = fold[frame.rows[name] == index].value_counts()
            assert counts.max() - counts.min() <= 6, f"{name} {index}: {counts.to_dict()}"
    other = turned(frame, seed)
    again = by_path(other, make_folds(other, count, None, seed))
    assert again == by_path(frame, fold) != by_path(frame, make_folds(frame, count, None, seed + 1))


def test_single_images_are_shared_exactly_and_the_unlabeled_are_in_no_fold():
    frame = frame_of({"x": np.array([0] * 101 + [1] * 52 + [2] * 5 + [-1] * 40)})
    fold = make_folds(frame, 5, None, 0)
    for index in range(3):
        counts = fold[frame.rows["x"] == index].value_counts()
        assert len(counts) == 5 and counts.max() - counts.min() <= 1
    assert fold[:158].value_counts().max() - fold[:158].value_counts().min() <= 2 and (fold[158:] == 0).all()
    with pytest.raises(UserError, match=r"split.folds 6: class 'x2' of x \(5 rows, 5 groups\) has none in fold \d"):
        make_folds(frame, 6, None, 0)
    with pytest.raises(UserError, match="no attribute 'z'"):
        make_folds(frame, 5, ["z"], 0)


def test_every_fold_is_valid_once_and_test_rows_are_in_none():
    frame = people(1)
    splits = [make_fold_split(frame, 4, fold, 0.2, None, 3) for fold in range(1, 5)]
    held = splits[0] == "test"
    assert abs(held[frame.labeled].mean() - 0.2) < 0.02
    for split in splits:
        check_leakage(frame, split)
        assert ((split == "test") == held).all()
    times = np.sum([split == "valid" for split in splits], axis=0)
    assert (times[(frame.labeled & ~held).to_numpy()] == 1).all() and not times[held.to_numpy()].any()

    words = ["train"] * 60 + ["valid"] * 20 + ["test"] * 20
    given = frame_of({"x": np.tile([0, 1], 50)}, split=words)
    splits = [make_fold_split(given, 2, fold, 0.0, None, 0) for fold in (1, 2)]
    assert all((split[80:] == "test").all() and (split == "valid").sum() == 40 for split in splits)


def test_models_of_single_attributes_share_folds_by_naming_all_of_them():
    """With labels missing here and there, and whether the attributes are heads, columns, or joined in one."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(300), rng.integers(1, 8, 300))
    labels = {name: rng.integers(-1, count, len(group)) for name, count in (("mask", 3), ("gender", 2), ("age", 3))}
    full = frame_of(labels, [f"p{n}" for n in group])
    names = {"mask": ("wear", "incorrect", "normal"), "gender": ("male", "female"), "age": ("<30", "30-59", ">=60")}
    full = replace(full, classes=names)
    singles = [choose_attributes(full, [name], "x") for name in full.attributes]
    frames = [full, *singles, choose_attributes(full, ["gender", "age"], "x"), join_attributes(full)]
    for stratify in (["mask", "gender", "age"], ["age", "gender", "mask"]):
        for draw in (
            lambda frame: make_folds(frame, 5, stratify, 3),  # noqa: B023
            lambda frame: make_fold_split(frame, 4, 2, 0.15, stratify, 3),  # noqa: B023
            lambda frame: make_split(frame, 0.2, 0.1, stratify, 3),  # noqa: B023
        ):
            first, *others = [draw(frame) for frame in frames]
            assert all(other.equals(first) for other in others)
    # As a reader gives them that does not know the columns as attributes, nor the order of their classes.
    plain = [replace(frame, unused={}) for frame in singles]
    first, *others = [make_folds(frame, 5, ["mask", "gender", "age"], 3) for frame in plain]
    assert all(other.equals(first) for other in others)
    apart = [make_folds(frame, 5, None, 3) for frame in singles]
    assert not apart[0].equals(apart[1])
    several = join_data_sets({"a": singles[0], "b": singles[0]})
    assert several.unused["age"] == names["age"] and make_folds(several, 2, ["mask", "age"]).notna().all()


def test_folds_are_stratified_by_a_column_of_few_texts():
    frame = frame_of({"x": np.tile([0, 1], 50)})
    rows = frame.rows.assign(race=np.repeat(["w", "b", None, "b"], 25), years=np.arange(100), name=frame.rows["path"])
    frame = frame.with_rows(rows)
    fold = make_folds(frame, 5, ["race"])
    assert (pd.crosstab(fold, rows["race"].fillna("-")) == [5, 10, 5]).all().all()
    for column, message in (("years", "no attribute 'years'"), ("name", "100 different texts")):
        with pytest.raises(UserError, match=rf"split.stratify: .*{message}"):
            make_folds(frame, 5, [column])


# A split of another run -----------------------------------------------------------------------------------------------


def config_of(faces: Path, *overrides: str) -> Config:
    args = {"root": str(faces), "frame": "labels.csv", "attributes": ["hue"], "group": "group"}
    tree = {
        "name": "x",
        "dataset": {"type": "LabelCSV", "args": args},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet"}},
        "optimizer": {"type": "AdamW"},
        "trainer": {"type": "SupervisedTrainer", "epochs": 1},
    }
    return apply_overrides(config_from_dict(tree, "x.json"), overrides)


def test_a_split_is_taken_from_another_run_and_refused_where_it_leaks(tmp_path, tiny_faces):
    first = prepare_labels(config_of(tiny_faces, "split.folds=3", "split.fold=2", "split.seed=7"))
    path = tmp_path / "split.csv"
    write_split(path, first.frame, first.split)
    config = config_of(tiny_faces, f"split.from={path}")
    assert config.to_dict()["split"]["from"] == str(path)
    assert config_from_dict(config.to_dict(), "again") == config
    second = prepare_labels(config)
    assert (second.split == first.split).all() and f"split: as in {path}; nothing is drawn" in second.frame.history

    table = pd.read_csv(path)
    torn = table.assign(split=["valid", *["train"] * (len(table) - 1)])
    torn.assign(labeled="true").to_csv(path, index=False)
    with pytest.raises(UserError, match=r"split.csv: split: 1 of 48 groups are on two sides: g0"):
        prepare_labels(config)
    table.assign(labeled="true", split=np.where(table["split"] == "valid", "test", "train")).to_csv(path, index=False)
    assert set(prepare_labels(config).split) == {"train", "test"}
    reds = pd.read_csv(tiny_faces / "labels.csv").groupby("group")["hue"].transform("nunique").eq(1).to_numpy()
    table.assign(labeled="true", split=np.where(reds, "valid", "train")).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"class 'blue' of hue .* has none in valid"):
        prepare_labels(config)
    # Of a set that has changed, such as after corrections that drop a person: what is known stays where it was.
    changed = table.iloc[1:].assign(labeled="true", path=lambda rows: rows["path"].replace(table["path"].iloc[9], "x"))
    changed.to_csv(path, index=False)
    third = prepare_labels(config)
    kept = third.frame.rows["path"].isin(changed["path"]).to_numpy()
    assert (third.split[kept] == first.split[kept]).all() and (~kept).sum() == 2
    sides = dict(zip(changed["group"], changed["split"]))
    groups = third.frame.rows["group"][~kept]
    assert list(third.split[~kept]) == [sides.get(group, "train") for group in groups]
    said = "1 of its images are gone; 2 new ones follow their group, or are for training"
    assert third.frame.history[-1].endswith(said)
    table.assign(labeled="true", path="other/" + table["path"]).to_csv(path, index=False)
    with pytest.raises(UserError, match="is about other images: none of its 96 is in the data"):
        prepare_labels(config)


def test_a_checkpoint_is_scored_without_the_file_that_its_split_came_from(tmp_path, tiny_faces, in_process):
    drawn = prepare_labels(config_of(tiny_faces, "split.folds=4", "split.fold=4"))
    path = tmp_path / "split.csv"
    write_split(path, drawn.frame, drawn.split)
    small = {"type": "SupervisedTrainer", "args": {}, "epochs": 1, "steps_per_epoch": 2}
    config = write_config(tmp_path, tiny_faces, trainer=small, data_loader={"num_workers": 0})
    done = in_process("train.py", "-c", str(config), "-s", f"split.from={path}", "-d", "cpu", "--run-id", "x")
    assert done.code == 0 and f"split: as in {path}" in done.out
    path.unlink()
    run_dir = tmp_path / "saved" / "tiny" / "x"
    done = in_process("test.py", "--resume", str(run_dir), "-d", "cpu")
    assert done.code == 0 and done.out.count("note: ") == 1, done.out + done.err
    assert "note: the epoch that is scored was chosen on these images" in done.out
    scored = pd.read_csv(run_dir / "report" / "predictions.csv")["path"]
    assert set(scored) == set(drawn.frame.rows["path"][drawn.split == "valid"])


# A k-fold training ----------------------------------------------------------------------------------------------------


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(PROJECT / "train.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_an_epoch(run_dir: Path, process: subprocess.Popen) -> None:
    deadline = time.time() + 120
    while not (run_dir / "checkpoints" / "last.pth").exists():
        assert process.poll() is None and time.time() < deadline, process.communicate()
        time.sleep(0.005)


def test_killed_folds_continue_to_the_same_out_of_fold_predictions(tmp_path, tiny_faces, run):
    config = write_config(
        tmp_path,
        tiny_faces,
        trainer={"epochs": 3, "steps_per_epoch": 3},
        data_loader={"num_workers": 0},
        split={"valid": 0.25, "test": 0.25},
    )
    saved = tmp_path / "saved" / "tiny"
    arguments = ["-c", str(config), "--folds", "5"]
    done = run("train.py", *arguments, "--run-id", "whole")
    assert done.code == 0, done.err
    assert "all together" in done.out and str(saved / "whole" / "oof.csv") in done.out
    check_the_vote(saved / "whole", done.out)

    process = start([*arguments, "--run-id", "killed"])
    wait_for_an_epoch(saved / "killed-fold3", process)
    process.kill()
    process.communicate(timeout=60)
    second, third = (saved / f"killed-fold{fold}" / "checkpoints" / "last.pth" for fold in (2, 3))
    before = second.read_bytes()
    assert not torch.load(third, weights_only=True)["finished"] and not (saved / "killed" / "oof.csv").exists()

    done = run("train.py", *arguments, "-r", "auto")
    assert done.code == 0, done.err
    assert "fold 2 of 5: finished" in done.out and "fold 3 of 5: continuing" in done.out
    assert second.read_bytes() == before
    for name in ("oof.csv", "test.csv"):
        assert (saved / "killed" / name).read_bytes() == (saved / "whole" / name).read_bytes()
    assert sorted(path.name for path in saved.iterdir() if path.name.startswith("killed")) == [
        "killed",
        *(f"killed-fold{fold}" for fold in range(1, 6)),
    ]

    # Fold 5 came after whole folds in one process, after half of fold 3 in the other: nothing is carried over.
    ends = [saved / f"{name}-fold5" / "checkpoints" / "last.pth" for name in ("whole", "killed")]
    one, other = (torch.load(path, weights_only=True) for path in ends)
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
    torch.testing.assert_close(one["optimizer"]["state"], other["optimizer"]["state"], rtol=0, atol=0)
    check_what_the_folds_say(saved, tiny_faces)


def check_the_vote(folder: Path, said: str) -> None:
    """test.csv has each fold's predictions of the same images; the votes in folds.json are those of these figures."""
    table = pd.read_csv(folder / "test.csv")
    split = pd.read_csv(folder.with_name(f"{folder.name}-fold1") / "split.csv")
    paths = list(split["path"][split["split"] == "test"])
    assert (
        len(paths) == 24
        and list(table["path"]) == paths * 5
        and list(table["fold"]) == [f for f in range(1, 6) for _ in paths]
    )
    assert not set(paths) & set(pd.read_csv(folder / "oof.csv")["path"])
    truth = table["hue/label"].to_numpy()[:24]
    reds = table["hue/p/red"].to_numpy().reshape(5, 24)
    vote = json.loads((folder / "folds.json").read_text())["vote"]
    head = vote["heads"]["hue"]
    soft, hard = reds.mean(axis=0) > 0.5, (reds > 0.5).sum(axis=0) > 2
    for name, chosen in (("soft", soft), ("hard", hard)):
        assert head[name]["accuracy"] == pytest.approx((np.where(chosen, "red", "blue") == truth).mean())
        assert head[name]["macro_f1"] == pytest.approx(
            f1_score(truth, np.where(chosen, "red", "blue"), average="macro")
        )
    single = [f1_score(truth, np.where(of_fold > 0.5, "red", "blue"), average="macro") for of_fold in reds]
    assert [scores["macro_f1"] for scores in head["single"]] == pytest.approx(single)
    assert head["mean"]["macro_f1"] == pytest.approx(np.mean(single))
    assert "hue: 24 test images that no model has seen" in said and head["says"] in said and "hard vote" in said


@pytest.mark.parametrize(
    ("single", "soft", "says"),
    [
        ([0.7, 0.8, 0.75], 0.82, "a macro F1 of 0.820; the best single model, fold 2, 0.800: voting is no worse"),
        ([0.7, 0.8, 0.75], 0.8, "voting is as good"),
        ([0.7, 0.8, 0.75], 0.76, "0.760, less than the best single model, fold 2, 0.800, and no less than the mean"),
        ([0.7, 0.8, 0.75], 0.74, "0.740, less than the mean of the single models, 0.750: do not vote"),
    ],
)
def test_what_a_vote_is_worth_is_said_plainly(single, soft, says):
    head = {"single": [{"macro_f1": value} for value in single], "mean": {"macro_f1": 0.75}, "soft": {"macro_f1": soft}}
    assert says in verdict(head)
    if soft == 0.82:
        assert verdict({**head, "soft_minus_best": [0.001, 0.04]}).endswith("voting is better")
        assert verdict({**head, "soft_minus_best": [-0.01, 0.05]}).endswith("may be chance (95 %: -0.010 to +0.050)")
    assert "there is no test split" in format_vote(None)


def test_out_of_fold_files_of_different_heads_join_and_have_the_joint_label(tmp_path, in_process):
    """A model of three heads and one of a single attribute that some images lack, split by all three."""
    draw_faces(tmp_path / "faces")
    data = {"root": str(tmp_path / "faces"), "frame": "labels.csv", "group": "person", "classes": CLASSES}
    tree = {
        "name": "of",
        "dataset": {"type": "LabelCSV", "args": {**data, "attributes": list(CLASSES)}},
        "split": {"stratify": list(CLASSES), "test": 0.2},
        "views": {"size": 24},
        "data_loader": {"batch_size": 16, "num_workers": 0, "cache": "ram"},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "trainer": {
            "type": "SupervisedTrainer",
            "epochs": 1,
            "steps_per_epoch": 2,
            "save_dir": str(tmp_path / "saved"),
        },
        "logger": {"console": False, "tensorboard": False},
    }
    (tmp_path / "c.json").write_text(json.dumps(tree))
    tables = []
    for name, more in (("all", []), ("age", ["-s", 'dataset.attributes=["age"]'])):
        given = ["-c", str(tmp_path / "c.json"), "-d", "cpu", "--folds", "2", "--run-id", name, *more]
        done = in_process("train.py", *given)
        assert done.code == 0, done.err
        tables.append([pd.read_csv(tmp_path / "saved" / "of" / name / f"{file}.csv") for file in ("oof", "test")])
    (whole, test), (age, age_test) = tables
    assert len(whole) > len(age) > 40 and "joint/label" not in age and list(age["path"]) == list(whole.dropna()["path"])
    joined = whole.merge(age, on=["path", "group", "fold", "age/label"], how="right")
    assert len(joined) == len(age) and joined["mask/label"].notna().all()
    assert set(age_test["path"]) == set(test.dropna()["path"])
    for table in (whole, test):
        for what in ("label", "prediction"):
            three = table[[f"{head}/{what}" for head in CLASSES]]
            assert (table[f"joint/{what}"].dropna() == three.dropna().agg("/".join, axis=1)).all()
            assert table[f"joint/{what}"].notna().equals(three.notna().all(axis=1))


def check_what_the_folds_say(saved: Path, faces: Path) -> None:
    table = pd.read_csv(saved / "whole" / "oof.csv")
    truth = pd.read_csv(faces / "labels.csv")
    truth = truth[truth["path"].isin(table["path"])]
    assert len(truth) == 72
    assert list(table.columns[:6]) == ["path", "group", "fold", "hue/label", "hue/prediction", "hue/confidence"]
    assert list(table["path"]) == list(truth["path"]) and list(table["hue/label"]) == list(truth["hue"])
    summary = json.loads((saved / "whole" / "folds.json").read_text())
    assert summary["finished"] and summary["folds"] == 5
    for number, of_fold in enumerate(summary["each"], start=1):
        run_dir = saved / f"whole-fold{number}"
        known = torch.load(run_dir / "checkpoints" / "best.pth", weights_only=True)["data"]
        seen = {group for group, side in zip(known["group"], known["split"]) if side == "train"}
        rows = table["fold"] == number
        assert rows.sum() == of_fold["images"] and not seen & set(table["group"][rows])
        best = pd.read_csv(run_dir / "metrics.csv")["valid/macro_f1"].max()
        assert of_fold["heads"]["hue"]["macro_f1"] == pytest.approx(best, abs=1e-12)
        right = (table["hue/label"] == table["hue/prediction"])[rows].mean()
        assert of_fold["heads"]["hue"]["accuracy"] == pytest.approx(right)
    values = [of_fold["heads"]["hue"]["macro_f1"] for of_fold in summary["each"]]
    assert summary["mean"]["hue"]["macro_f1"] == pytest.approx(np.mean(values))
    assert summary["std"]["hue"]["macro_f1"] == pytest.approx(np.std(values, ddof=1))
    names = ("blue", "red")
    labels = table["hue/label"].map(names.index).to_numpy(np.int64)
    head = HeadPrediction("hue", names, labels, table[["hue/p/blue", "hue/p/red"]].to_numpy())
    expected = evaluate_head(head, table["group"].tolist())
    for key in ("confusion", "macro_f1", "groups", "ci95"):
        assert summary["pooled"]["hue"][key] == expected[key]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [(BaseTrainer, "train_on"), (BaseTrainer, "_finish_run"), (folds, "predict_folds")])
def test_a_signal_stops_with_the_line_that_continues(tmp_path, tiny_faces, in_process, monkeypatch, number, at):
    """In a step, while a finished run is saved, and while the folds are put together."""
    small = {"type": "SupervisedTrainer", "args": {}, "epochs": 1, "steps_per_epoch": 2}
    config = write_config(tmp_path, tiny_faces, trainer=small, data_loader={"num_workers": 0})
    owner, name = at
    original = getattr(owner, name)

    def with_signal(*arguments):
        signal.raise_signal(number)
        return original(*arguments)

    monkeypatch.setattr(owner, name, with_signal)
    arguments = ["train.py", "-c", str(config), "-s", 'about="a b"', "-d", "cpu", "--run-id", "x", "--folds", "2"]
    before = signal.getsignal(number)
    done = in_process(*arguments)
    assert done.code == 128 + number and "Traceback" not in done.err and signal.getsignal(number) == before
    said, line = done.err.strip().splitlines()[-1].split("; continue with:  ")
    where = {"train_on": "fold 1 of 2: stopped after step 1", "_finish_run": "fold 1 of 2: stopped"}
    assert said == where.get(name, "out-of-fold predictions: stopped")
    assert shlex.split(line) == ["python", *arguments, "-r", "auto"]
    monkeypatch.setattr(owner, name, original)
    if name == "_finish_run":
        done = in_process(*shlex.split(line)[1:])
        assert done.code == 0 and "all together" in done.out
        assert len(pd.read_csv(tmp_path / "saved" / "tiny" / "x" / "oof.csv")) == 96
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "saved").rglob("*")}
        done = in_process(*shlex.split(line)[1:])
        assert done.code == 0 and "all 2 folds of 'x' are finished; nothing was trained or written" in done.out
        assert "all together" in done.out and "Traceback" not in done.err
        done = in_process(*shlex.split(line)[1:], "-s", "trainer.epochs=2")
        assert done.code == 2 and "the folds of another config (trainer.epochs: 1 -> 2)" in done.err
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "saved").rglob("*")}


def test_what_cannot_be_folded_is_refused_before_a_folder_exists(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    before = sorted([*(path.name for path in tmp_path.iterdir()), "saved"])
    for arguments, text in (
        (["--folds", "1"], "--folds takes a number of at least 2"),
        (["--folds", "3", "-r", "some.pth"], "no -r but -r auto"),
        (["--folds", "3", "-s", "split.from=split.csv"], "split.from: cannot be given together with split.folds"),
        (["--folds", "30"], "class 'blue' of hue (24 rows, 24 groups) has none in fold"),
        (["--folds", "3", "-s", "split.fold=2"], "split.fold: --folds 3 trains every fold, not number 2 alone"),
        (["--folds", "3", "-s", "split.folds=5"], "split.folds: --folds asks for 3 folds, the config for 5"),
        *((["--run-id", name], "--run-id: expected a folder name") for name in ("../x", "a/b", "..", "", "x" * 101)),
        (["--folds", "2", "--run-id", "a/b"], "got 'a/b'"),
        (["-s", 'name="../x"'], "name: expected a folder name"),
    ):
        done = in_process("train.py", "-c", str(config), *arguments)
        assert done.code == 2 and text in done.err, done.err
    assert not [path for path in (tmp_path / "saved").rglob("*") if path.name == "folds.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
