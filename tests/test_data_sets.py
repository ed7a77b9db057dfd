"""Several data sets in one run: labels that are missing, what a row trains, splits, reports, checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from data_loader.data_sets import label_table
from data_loader.hidden_labels import hide_labels
from data_loader.label_frame import LabelFrame, filter_rows
from data_loader.prepare_labels import prepare_labels, read_labels
from data_loader.readers import CelebAHair
from data_loader.sampler import make_stream
from data_loader.split_file import write_split
from trainer.build import build_trainer
from trainer.check_resume import check_resume
from trainer.explore import explore
from trainer.pseudo_label.unlabeled_rows import own_places
from utils.config import Config, config_from_dict, load_config
from utils.distributed import World
from utils.errors import ConfigError, UserError

ANNOTATION = "CelebAMask-HQ-attribute-anno.txt"


def paint(path: Path, red: bool, left: bool, rng: np.random.Generator) -> None:
    """24 x 24 pixels: red or blue says the gender, a bar on the left or right the other attribute."""
    picture = rng.integers(0, 90, (24, 24, 3)).astype(np.uint8)
    picture[4:20, 4:20, 2 if red else 0] += 120  # OpenCV writes BGR
    picture[:, (2 if left else 18) : (6 if left else 22)] += 60
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """utk/: 80 images with gender and age (3 per group); celeba/: 60 with Male and Bangs, other shares of both."""
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    lines = ["path,group"]
    for i in range(80):
        gender, age = i % 2, (20, 40, 70, 25)[i // 2 % 4]
        name = f"{age}_{gender}_0_{i:04d}.jpg.chip.jpg"
        paint(root / "utk" / "images" / name, gender == 0, age < 30, rng)
        lines.append(f"images/{name},g{i // 3}")
    (root / "utk" / "labels.csv").write_text("\n".join(lines) + "\n")
    rows = []
    for i in range(60):
        male, bangs = i % 3 > 0, i % 5 == 0
        paint(root / "celeba" / "CelebA-HQ-img" / f"{i}.jpg", male, bangs, rng)
        rows.append(f"{i}.jpg  {1 if bangs else -1} {1 if male else -1}")
    (root / "celeba" / ANNOTATION).write_text("\n".join(["60", "Bangs Male", *rows]) + "\n")
    return root


def config_of(faces: Path, **changes: Any) -> Config:
    tree: dict[str, Any] = {
        "name": "both",
        "dataset": [
            {"type": "UTKFace", "args": {"root": str(faces / "utk"), "age_boundaries": [30]}, "name": "utk"},
            {
                "type": "CelebAHair",
                "args": {"root": str(faces / "celeba"), "attribute": ["Bangs", "Male"]},
                "name": "celeba",
            },
        ],
        "split": {"valid": 0.25},
        "views": {"size": 24},
        "data_loader": {"batch_size": 8, "unlabeled_ratio": 2, "num_workers": 0, "sampler": "balanced"},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
        "optimizer": {"type": "AdamW", "args": {"lr": 5e-3}},
        "trainer": {"type": "FixMatchTrainer", "epochs": 1, "steps_per_epoch": 6, "ema": 0.9},
        "logger": {"tensorboard": False, "console": False},
    }
    for key, value in changes.items():
        *outer, last = key.split("__")
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = value
    return config_from_dict(tree, "x.json")


def refused(function: Any, *args: Any) -> str:
    with pytest.raises(UserError) as error:
        function(*args)
    return str(error.value)


# The label frame -----------------------------------------------------------------------------------------------------


def test_each_data_set_brings_its_attributes_and_the_others_are_missing(faces):
    frame = read_labels(config_of(faces))
    assert frame.classes == {
        "gender": ("male", "female"),
        "age": ("<30", ">=30"),
        "bangs": ("no_bangs", "bangs"),
    }
    rows = frame.rows.set_index("path")
    assert len(rows) == 140 and list(rows["dataset"].value_counts()[["utk", "celeba"]]) == [80, 60]
    here = rows.loc["utk/images/70_1_0_0005.jpg.chip.jpg"]
    assert (here["gender"], here["age"], here["bangs"], here["group"]) == (1, 1, -1, "utk/g1")
    there = rows.loc["celeba/CelebA-HQ-img/5.jpg"]
    assert (there["gender"], there["age"], there["bangs"]) == (0, -1, 1)
    assert frame.counts("gender") == {"male": 40 + 40, "female": 40 + 20}
    assert frame.counts("bangs") == {"no_bangs": 48, "bangs": 12} and frame.counts("age") == {"<30": 40, ">=30": 40}
    assert all(frame.file(path).is_file() for path in frame.rows["path"])


def test_classes_must_agree_unless_they_are_merged(faces):
    table = faces / "utk" / "sex.csv"
    names = sorted(p.name for p in (faces / "utk" / "images").iterdir())[:40]
    table.write_text("path,gender\n" + "".join(f"images/{n},{'mw'[int(n.split('_')[1])]}\n" for n in names))
    more = {"type": "LabelCSV", "args": {"root": str(faces / "utk"), "frame": "sex.csv", "attributes": ["gender"]}}
    both = [{"type": "UTKFace", "args": {"root": str(faces / "utk")}}, more]
    assert refused(read_labels, config_of(faces, dataset=both)) == (
        "x.json: dataset: 'gender' has the classes male, female in the data set 'UTKFace' and m, w in 'LabelCSV'; say "
        "with labels.merge.gender which of them are the same, or call or leave out one of the two with the key "
        "'attributes' of its data set"
    )
    merge = {"gender": {"male": ["male", "m"], "female": ["female", "w"]}}
    merged = read_labels(config_of(faces, dataset=both, labels__merge=merge))
    assert merged.classes["gender"] == ("male", "female") and sum(merged.counts("gender").values()) == 120
    apart = read_labels(config_of(faces, dataset=[both[0], {**more, "attributes": {"gender": "sex"}}]))
    assert apart.classes["sex"] == ("m", "w") and apart.counts("gender") == {"male": 40, "female": 40}
    swapped = {**more, "args": {**more["args"], "classes": {"gender": ["w", "m"]}}}
    same = read_labels(config_of(faces, dataset=[more, {**swapped, "name": "again"}]))
    assert same.classes["gender"] == ("m", "w") and same.counts("gender")["m"] % 2 == 0


def test_attributes_can_be_left_out_and_renamed(faces):
    one = {"type": "UTKFace", "args": {"root": str(faces / "utk")}, "attributes": ["age"]}
    frame = read_labels(config_of(faces, dataset=one))
    assert frame.attributes == ("age",) and set(frame.rows["gender"]) == {"male", "female"} and not frame.roots
    for wanted, message in (
        (["gendr"], "config: dataset.attributes: no attribute 'gendr'; did you mean 'gender'?"),
        ({"gender": "age", "age": "age"}, "'age' cannot name an attribute here, or names two"),
        ({"gender": "path"}, "'path' cannot name an attribute here"),
    ):
        assert message.split(": ", 1)[-1] in refused(
            read_labels, config_of(faces, dataset={**one, "attributes": wanted})
        )
    parts = config_of(faces).to_dict()["dataset"]
    parts[1]["args"]["root"] = str(faces / "nowhere")
    message = refused(read_labels, config_of(faces, dataset=parts))
    assert message.startswith("x.json: data set 'celeba': dataset[1].args.root: no folder")


def test_the_reader_gives_several_annotated_attributes(faces):
    root = faces / "celeba"
    frame = CelebAHair(str(root), attribute=["Male", "Bangs"])
    assert frame.classes == {"gender": ("male", "female"), "bangs": ("no_bangs", "bangs")}
    assert frame.counts("gender") == {"male": 40, "female": 20}
    (root / "hand.csv").write_text("file,forehead,bangs\n0,0,x\n1,2,y\n2,-1,z\n")
    hand = CelebAHair(str(root), label_frame="hand.csv", attribute=["Male"])
    assert hand.classes == {"forehead": ("0", "2"), "gender": ("male", "female")} and len(hand) == 59
    assert hand.counts("gender") == {"male": 39, "female": 20} and hand.counts("forehead") == {"0": 1, "2": 1}
    assert "has one class only" in refused(lambda: CelebAHair(str(root), attribute=["Male"], gender="male"))
    assert "expected different names" in refused(lambda: CelebAHair(str(root), attribute=[]))


def test_filters_concern_the_data_sets_that_have_their_columns(faces):
    frame = read_labels(config_of(faces))
    old = filter_rows(frame, ["years >= 30"])
    assert list(old.rows["dataset"].value_counts()[["utk", "celeba"]]) == [40, 60]
    assert len(filter_rows(frame, ["bangs == 'bangs'"])) == 80 + 12
    assert len(filter_rows(frame, ["gender == 'male'"])) == 80 and len(filter_rows(frame, ["dataset == 'utk'"])) == 80
    assert "no data set has all of bangs, years" in refused(filter_rows, frame, ["years > 3 or bangs == 'bangs'"])


def test_corrections_name_images_as_the_run_does(faces, monkeypatch, tmp_path):
    """By the readers' names of attributes, whatever a run learns of them and calls them."""
    monkeypatch.chdir(tmp_path)
    Path("fix.csv").write_text(
        "path,field,from,to\nceleba/CelebA-HQ-img/5.jpg,bangs,bangs,no_bangs\n"
        "utk/images/70_1_0_0005.jpg.chip.jpg,gender,female,unsure\nutk/images/20_0_0_0000.jpg.chip.jpg,age,20,33\n"
    )
    rows = read_labels(config_of(faces, labels__corrections="fix.csv")).rows.set_index("path")
    assert rows.loc["celeba/CelebA-HQ-img/5.jpg", "bangs"] == 0
    assert rows.loc["utk/images/70_1_0_0005.jpg.chip.jpg", "gender"] == -1
    parts = config_of(faces).to_dict()["dataset"]
    parts[0]["attributes"], parts[1]["attributes"] = {"gender": "sex"}, ["gender"]
    frame = read_labels(config_of(faces, dataset=parts, labels__corrections="fix.csv"))
    rows = frame.rows.set_index("path")
    assert "3 applied" in frame.history[-1] and rows.loc["celeba/CelebA-HQ-img/5.jpg", "bangs"] == "no_bangs"
    assert rows.loc["utk/images/70_1_0_0005.jpg.chip.jpg", "sex"] == -1
    assert list(rows.loc["utk/images/20_0_0_0000.jpg.chip.jpg", ["age", "years"]]) == [">=30", 33]
    Path("fix.csv").write_text("path,field,from,to\nukt/images/5.jpg,gender,,male\n")
    message = refused(read_labels, config_of(faces, labels__corrections="fix.csv"))
    assert "paths begin with the name of a data set: utk/…, celeba/…" in message


def test_corrections_of_a_person_name_the_data_set(tmp_path):
    for name in ("a", "b"):
        for person in ("000001_male_Asian_20", "000002_female_Asian_61"):
            folder = tmp_path / name / "train" / "images" / person
            folder.mkdir(parents=True)
            (folder / "normal.jpg").touch()
        table = "id,path,gender,age\n1,000001_male_Asian_20,male,20\n2,000002_female_Asian_61,female,61\n"
        (tmp_path / name / "train" / "train.csv").write_text(table)
    parts = [{"type": "MaskFaces", "name": name, "args": {"root": str(tmp_path / name)}} for name in ("a", "b")]
    file = tmp_path / "fix.csv"
    file.write_text("path,field,from,to\nb/000001_male_Asian_20,gender,male,female\n")
    before = read_labels(config_of(tmp_path, dataset=parts)).rows
    after = read_labels(config_of(tmp_path, dataset=parts, labels__corrections=str(file))).rows
    assert list(after["path"][before["gender"] != after["gender"]]) == ["b/images/000001_male_Asian_20/normal.jpg"]
    for row, message in (
        ("000001_male_Asian_20,", "no image or person has this path"),
        (",2", "persons of the data sets a and b have this id"),
        (",3", "no image has this id"),
    ):
        file.write_text(f"path,id,field,from,to\n{row},gender,,female\n")
        assert message in refused(read_labels, config_of(tmp_path, dataset=parts, labels__corrections=str(file)))


def test_splits_keep_groups_and_the_shares_of_each_data_set(faces):
    labels = prepare_labels(config_of(faces, split__test=0.1))
    rows = labels.frame.rows.assign(split=labels.split)
    assert rows.groupby("group")["split"].nunique().max() == 1
    shares = rows.groupby("dataset")["split"].value_counts(normalize=True).unstack()
    assert np.allclose(shares.loc["celeba", ["valid", "test"]], [0.25, 0.1], atol=0.02)
    assert np.allclose(shares.loc["utk", ["valid", "test"]], [0.25, 0.1], atol=0.05)
    bangs = rows[rows["dataset"] == "celeba"].groupby("split")["bangs"].mean()
    assert np.allclose(bangs[["train", "valid"]], 0.2, atol=0.02)
    table = label_table(labels.frame, labels.split)
    assert [line.split() for line in table[1:4]] == [
        ["split", "data", "set", "images", "gender", "age", "bangs"],
        ["train", "utk", "51", "51", "/", "0", "51", "/", "0", "0", "/", "51"],
        ["train", "celeba", "39", "39", "/", "0", "0", "/", "39", "39", "/", "0"],
    ]


def test_a_split_that_one_data_set_brings_is_kept(faces):
    names = sorted(p.name for p in (faces / "utk" / "images").iterdir())
    side = ["test" if i < 20 else "train" for i in range(len(names))]
    lines = [f"images/{n},{n.split('_')[1]},{s}\n" for n, s in zip(names, side)]
    (faces / "utk" / "sides.csv").write_text("path,sex,side\n" + "".join(lines))
    args = {"root": str(faces / "utk"), "frame": "sides.csv", "attributes": ["sex"], "split": "side"}
    parts = [config_of(faces).to_dict()["dataset"][1], {"type": "LabelCSV", "args": args}]
    labels = prepare_labels(config_of(faces, dataset=parts))
    counts = labels.frame.rows.groupby("dataset")["path"].count()
    sides = labels.split.groupby(labels.frame.rows["dataset"]).value_counts()
    assert sides["LabelCSV", "test"] == 20 and sides["LabelCSV", "valid"] == 15 and counts["LabelCSV"] == 80
    assert sides["celeba", "valid"] == 15 and ("celeba", "test") not in sides


@pytest.mark.parametrize("folds", [{}, {"split__folds": 3, "split__fold": 2}])
def test_a_data_set_may_be_for_training_only(faces, folds, tmp_path):
    parts = config_of(faces).to_dict()["dataset"]
    parts[1] |= {"split": "train", "attributes": ["gender"]}
    alone = prepare_labels(config_of(faces, dataset=parts[:1], **folds))
    labels = prepare_labels(config_of(faces, dataset=parts, split__stratify=["gender"], **folds))
    of_set = labels.frame.rows["dataset"]
    assert set(labels.split[of_set == "celeba"]) == {"train"} and set(labels.split[of_set == "utk"]) > {"valid"}
    if folds:
        assert (labels.split[of_set == "utk"] == "valid").sum() == (alone.split == "valid").sum()
    parts[1]["attributes"] = None  # a head that is known there alone is learned and not scored
    config = config_of(faces, dataset=parts, **folds)
    notes = build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None).notes
    assert "warning: bangs: no validation image has a label, so it is not scored" in notes
    # The split of such a run is taken over as it is, and one without the key is made to fit it.
    own = prepare_labels(config)
    write_split(tmp_path / "own.csv", own.frame, own.split)
    other = prepare_labels(config_of(faces))
    write_split(tmp_path / "other.csv", other.frame, other.split)
    for name, moved in (("own", 0), ("other", int(((other.split != "train") & (of_set == "celeba")).sum()))):
        taken = prepare_labels(config_of(faces, dataset=parts, split={"from": str(tmp_path / f"{name}.csv")}))
        assert set(taken.split[of_set == "celeba"]) == {"train"}
        said = f"{moved} of data sets that are for training only are in training now"
        assert (said in taken.frame.history[-1]) == bool(moved)


def test_folds_of_a_config_with_a_head_that_is_known_in_training_only(faces, tmp_path, in_process):
    parts = config_of(faces).to_dict()["dataset"]
    parts[1]["split"] = "train"
    (tmp_path / "folder" / "unlabeled").mkdir(parents=True)
    shutil.copy(faces / "celeba" / "CelebA-HQ-img" / "0.jpg", tmp_path / "folder" / "unlabeled")
    parts.append({"type": "ImageFolder", "name": "folder", "args": {"root": str(tmp_path / "folder")}})
    tree = config_of(faces, dataset=parts, trainer__save_dir=str(tmp_path / "saved")).to_dict()
    (tmp_path / "c.json").write_text(json.dumps({**tree, "trainer": {**tree["trainer"], "steps_per_epoch": 1}}))
    done = in_process("train.py", "-c", str(tmp_path / "c.json"), "-d", "cpu", "--folds", "2", "--run-id", "f")
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "saved" / "both" / "f" / "folds.json").read_text())
    assert summary["finished"] and set(summary["pooled"]) == set(summary["mean"]) == {"gender", "age"}


def test_images_without_any_label_teach_the_heads_of_the_others(faces, tmp_path):
    """Such as those that a competition evaluates; also an ImageFolder that has nothing but its folder 'unlabeled'."""
    for place in ("flat", "folder/unlabeled"):
        shutil.copytree(faces / "celeba" / "CelebA-HQ-img", tmp_path / place / "a")
    parts = config_of(faces).to_dict()["dataset"][:1]
    parts.append({"type": "UnlabeledImages", "name": "flat", "args": {"root": str(tmp_path / "flat")}})
    parts.append({"type": "ImageFolder", "name": "folder", "args": {"root": str(tmp_path / "folder")}})
    built = build_trainer(config_of(faces, dataset=parts), torch.device("cpu"), World(), {}, tell=lambda _: None)
    trainer, frame = built.trainer, built.labels.frame.rows
    assert set(trainer.classes) == {"gender", "age"}
    assert frame["dataset"].value_counts().to_dict() == {"utk": 80, "flat": 60, "folder": 60}
    rows = [row for batch in trainer.data.train_batches(0, 12, {}) for row in batch["unlabeled"]["row"].tolist()]
    shown = frame["dataset"].iloc[rows].value_counts(normalize=True)
    assert shown["flat"] > 0.15 and shown["folder"] > 0.15
    (tmp_path / "empty").mkdir()
    parts[1]["args"]["root"] = str(tmp_path / "empty")
    assert "dataset[1].args.root: no image in" in refused(read_labels, config_of(faces, dataset=parts))


def test_hidden_labels_are_drawn_in_each_data_set(faces):
    config = config_of(faces, labels__labeled={"utk": {"count": 10}})
    labels = prepare_labels(config)
    rows, train = labels.frame.rows, labels.split == "train"
    utk, celeba = (train & (rows["dataset"] == name) for name in ("utk", "celeba"))
    assert ((rows["age"] >= 0) & utk).sum() == ((rows["gender"] >= 0) & utk).sum() == 10
    assert (rows.loc[celeba, "bangs"] >= 0).all() and (rows.loc[utk, "hidden/age"] >= 0).sum() == utk.sum() - 10
    assert (rows["hidden/bangs"] == -1).all()
    both = prepare_labels(config_of(faces, labels__labeled={"utk": {"count": 10}, "celeba": {"per_class": 2}}))
    assert (both.frame.rows["hidden/age"] >= 0).sum() == utk.sum() - 10
    assert ((both.frame.rows["bangs"] >= 0) & train).sum() == 8  # 2 of each of bangs x gender
    alone = hide_labels(prepare_labels(config_of(faces)).frame, labels.split, {"count": 10}, data_set="utk")
    assert alone.rows["age"].equals(rows["age"])
    wrong = config_of(faces, labels__labeled={"utc": {"count": 10}})
    assert refused(prepare_labels, wrong) == "config: labels.labeled: no data set 'utc'; did you mean 'utk'?".replace(
        "config", "x.json"
    )


def test_samplers_give_data_sets_their_share_before_classes():
    rows = np.arange(400)
    data_sets = (rows >= 300).astype(np.int64)
    classes = np.where(data_sets == 0, rows % 3, 7 + (rows >= 390))
    shares = {}
    for kind in ("balanced", "weighted", "square_root"):
        drawn = make_stream(kind, rows, classes, 0, 1, data_sets).take(5, 6000)
        shares[kind] = np.array([np.mean(classes[drawn] == c) for c in (0, 1, 2, 7, 8)])
    assert np.allclose(shares["balanced"], [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4], atol=1e-3)
    assert np.allclose(shares["weighted"], [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4], atol=0.02)
    first = 300**0.5 / (300**0.5 + 10)
    assert np.allclose(shares["square_root"], [first / 3] * 3 + [(1 - first) * 0.75, (1 - first) * 0.25], atol=0.02)
    stream = make_stream("balanced", rows, classes, 0, 1, data_sets)
    assert np.array_equal(stream.take(3, 50)[7:], stream.take(10, 43))


# Training ------------------------------------------------------------------------------------------------------------


def trainer_of(config: Config, tmp_path: Path) -> Any:
    config = config_from_dict(
        {**config.to_dict(), "trainer": {**config.to_dict()["trainer"], "save_dir": str(tmp_path)}}, "x"
    )
    return build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None).trainer


PASS_ALL = {"threshold": {"type": "fixed", "args": {"value": 0.01}}}


@pytest.mark.parametrize(
    ("kind", "args", "age_learns"),
    [
        ("SupervisedTrainer", {}, False),
        ("MultiHeadTrainer", {}, False),
        ("FixMatchTrainer", PASS_ALL, True),
        ("FixMatchTrainer", {**PASS_ALL, "unlabeled_from": "own"}, False),
        ("PseudoLabelTrainer", {**PASS_ALL, "ramp_up": 0, "unlabeled_from": "own"}, False),
    ],
)
def test_what_a_row_trains(faces, tmp_path, kind, args, age_learns):
    """A row of celeba has no age: no gradient for that head from its labels, but one from its pseudo-label."""
    made = trainer_of(config_of(faces, trainer__type=kind, trainer__args=args), tmp_path)
    batch = made.data.first_batch()
    rows = made.data.labels.frame.rows
    celeba = torch.tensor((rows["dataset"] == "celeba").to_numpy())
    for stream in batch.values():
        keep = celeba[stream["row"]]
        assert 0 < keep.sum() < len(keep)
        for name, value in stream.items():
            stream[name] = {h: v[keep] for h, v in value.items()} if isinstance(value, dict) else value[keep]
    made.network.train()
    made.training_step(batch).backward()
    size = {
        head: float(sum(p.grad.abs().sum() for p in made.model.heads[head].parameters() if p.grad is not None))
        for head in made.classes
    }
    assert size["bangs"] > 0 and size["gender"] > 0
    assert (size["age"] > 0) == age_learns
    if age_learns:
        assert made.notes[0].endswith(
            """'age': the head learns from them too; trainer.args.unlabeled_from "own" leaves them out"""
        )
    elif "unlabeled_from" in args:
        of, rest = f" of {len(made.unlabeled_rows)} unlabeled images", "': the head does not learn from them"
        assert [re.sub(r"^\d+", "", note) for note in made.notes] == [
            f"{of} are of data sets without '{head}{rest}" for head in ("age", "bangs")
        ]
        values = made.epoch_values(made.sums.read() | {"steps": torch.tensor(1.0)})
        assert values["train/gender/accepted"] == values["train/bangs/accepted"] == len(batch["unlabeled"]["row"])
        assert "train/age/accepted" not in values


@pytest.mark.parametrize(
    ("kind", "args", "head"),
    [
        ("SupervisedTrainer", {}, "plain"),
        ("MultiHeadTrainer", {"weighting": "uncertainty"}, "plain"),
        (
            "FixMatchTrainer",
            {**PASS_ALL, "unlabeled_from": "own", "align": "prior"},
            {"age": "abc", "default": "plain"},
        ),
        ("FixMatchTrainer", {"threshold": "adamatch", "align": "estimated", "unlabeled_from": "own"}, "plain"),
        ("FixMatchTrainer", {"threshold": "freematch", "selective": True, "unlabeled_from": "own"}, "plain"),
        ("FixMatchTrainer", {**PASS_ALL, "selective": True}, "plain"),
    ],
)
def test_a_branch_computes_the_rows_that_count_for_its_head_and_learns_the_same(faces, tmp_path, kind, args, head):
    arch = {"backbone": "test_efficientnet", "share": 1, "batch_norm": "frozen", "head": head, "dropout": 0.3}
    config = config_of(faces, trainer__type=kind, trainer__args=args, arch__args=arch)
    trainers, computed = [], []
    for leaves_out in (True, False):
        torch.manual_seed(0)
        made = trainer_of(config, tmp_path)
        assert made.leaves_out_rows
        made.leaves_out_rows = leaves_out
        rows = dict.fromkeys(made.classes, 0)
        for name, branch in made.model.backbone.branches.items():
            branch.register_forward_hook(
                lambda _, __, out, name=name, rows=rows: rows.update({name: rows[name] + len(out)})
            )
        trainers.append(made)
        computed.append(rows)
    trainers[1].model.load_state_dict(trainers[0].model.state_dict())
    batches = list(trainers[0].data.train_batches(0, 4, {}))
    losses = []
    for made in trainers:
        made.network.train()
        torch.manual_seed(1)
        losses.append([float(made.train_on(batch)) for batch in batches])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for one, other in zip(trainers[0].model.parameters(), trainers[1].model.parameters()):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
    sums = [made.sums.read() for made in trainers]
    assert sums[0].keys() == sums[1].keys()
    for name, value in sums[0].items():
        torch.testing.assert_close(value, sums[1][name], atol=1e-3, rtol=1e-3, msg=name)
    assert computed[0]["gender"] == computed[1]["gender"], "both data sets know the gender"
    for name in ("age", "bangs"):
        whole = args.get("unlabeled_from") != "own" and kind == "FixMatchTrainer"
        assert (0.6 if whole else 0.2) < computed[0][name] / computed[1][name] < (0.95 if whole else 0.8)


def test_a_branch_without_a_row_in_a_batch_has_gradients_of_0(faces, tmp_path):
    """As data-parallel training needs them, and finite logits."""
    arch = {"backbone": "test_efficientnet", "share": 1, "batch_norm": "frozen"}
    made = trainer_of(config_of(faces, trainer__type="SupervisedTrainer", trainer__args={}, arch__args=arch), tmp_path)
    images = torch.randint(0, 256, (4, 24, 24, 3), dtype=torch.uint8)
    some = torch.tensor([True, False, True, False])
    counting = {"gender": ~some | some, "age": some, "bangs": some & ~some}
    logits = made.logits_of(images, counting)
    whole = made.model.eval()(made.normalize(images))
    torch.testing.assert_close(made.model(made.normalize(images), rows=counting)["age"][some], whole["age"][some])
    sum((rows * counting[head][:, None]).sum() for head, rows in logits.items()).backward()
    for weight in made.model.backbone.branches["bangs"].parameters():
        assert weight.grad is not None and not weight.grad.any()
    assert all(torch.isfinite(rows).all() for rows in logits.values())


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("FixMatchTrainer", {"threshold": {"age": {"type": "freematch", "args": {"w_f": 0.1}}, "default": "fixed"}}),
        ("PseudoLabelTrainer", {"ramp_up": 0, "threshold": "softmatch"}),
        ("MeanTeacherTrainer", {"ramp_up": 0}),
    ],
)
def test_the_weight_of_a_head_is_that_of_all_its_losses(faces, tmp_path, kind, args):
    """Gradients of a head, which nothing else has a part in, are in the ratio of its weight; 0 switches it off."""
    gradients = {}
    for weight in (1.0, 0.25, 0.0):
        loss = {"age": {"type": "cross_entropy", "weight": weight}, "default": {"type": "cross_entropy"}}
        head = {} if kind == "MeanTeacherTrainer" else {"arch__args__head": {"age": "abc", "default": "plain"}}
        made = trainer_of(config_of(faces, trainer__type=kind, trainer__args=args, loss=loss, **head), tmp_path)
        made.network.train()
        batch = made.data.first_batch()
        torch.manual_seed(0)
        made.training_step(batch).backward()
        heads = {"plain": made.model.heads, "balanced": made.model.balanced_heads or {}}
        gradients[weight] = {
            f"{kind} {name}": of_kind[name].weight.grad for kind, of_kind in heads.items() for name in of_kind
        }
    for name, whole in gradients[1.0].items():
        assert whole.any()
        for weight in (0.25, 0.0):
            factor = weight if name.endswith("age") else 1
            torch.testing.assert_close(gradients[weight][name], factor * whole)


def test_a_choice_of_data_sets_where_there_is_none_is_said(faces, tmp_path):
    only = config_of(faces, trainer__args={"unlabeled_from": "own"}).to_dict()["dataset"][:1]
    made = trainer_of(config_of(faces, dataset=only, trainer__args={"unlabeled_from": "own"}), tmp_path)
    assert made.notes == ['trainer.args.unlabeled_from "own" changes nothing: no unlabeled image is foreign to a head']


def test_the_data_sets_that_a_head_learns_from():
    """Those with a label for it, and those without one for any; numbered among the unlabeled rows that are theirs."""
    rows = pd.DataFrame({"dataset": list("aabbcc"), "x": [0, -1, -1, -1, -1, -1], "y": [-1, -1, 1, -1, -1, -1]})
    rows = rows.assign(path=rows["dataset"] + rows.index.astype(str), group=rows.index.astype(str))
    roots = {name: Path(name) for name in "abc"}
    frame = LabelFrame(rows, {"x": ("0", "1"), "y": ("0", "1")}, Path(), roots=roots)
    data = SimpleNamespace(labels=SimpleNamespace(frame=frame))
    unlabeled = torch.tensor([1, 2, 3, 4])
    found = own_places(data, unlabeled)
    assert found["x"].tolist() == [0, -1, -1, 1]
    assert found["y"].tolist() == [-1, 0, 1, 2]
    assert "x" not in own_places(data, torch.tensor([1, 4, 5]))


def test_switches_per_head(faces, tmp_path):
    switches = {
        "threshold": {"age": "freematch", "default": {"type": "fixed", "args": {"value": 0.8}}},
        "align": {"bangs": "prior", "gender": None, "age": "uniform"},
        "debias": None,
    }
    made = trainer_of(config_of(faces, trainer__args=switches), tmp_path)
    kinds = {head: type(made.labeler(head).threshold).__name__ for head in made.classes}
    assert kinds == {"gender": "fixed", "age": "freematch", "bangs": "fixed"}
    assert made.labeler("gender").threshold.value == 0.8 and made.labeler("gender").align is None
    assert made.labeler("age").align.target.tolist() == [0.5, 0.5]
    assert made.labeler("bangs").align.target[1].item() == pytest.approx(0.2, abs=0.02)
    made.train_on(made.data.first_batch())
    assert {"train/age/pass_rate", "train/bangs/pass_rate"} <= made.epoch_values(made.sums.read()).keys()
    for wrong, message in (
        (
            {"threshold": {"aeg": "fixed", "default": "fixed"}},
            "trainer.args.threshold: no head 'aeg'; did you mean 'age'?",
        ),
        ({"align": {"age": "prior"}}, "trainer.args.align: nothing for the head 'gender' and no 'default'"),
    ):
        with pytest.raises(ConfigError) as error:
            trainer_of(config_of(faces, trainer__args=wrong), tmp_path)
        assert message in str(error.value)


def test_stopping_and_continuing_changes_nothing(faces):
    same, lines = check_resume(config_of(faces, labels__labeled={"count": 40}), "cpu")
    assert same, "\n".join(lines)


# Commands ------------------------------------------------------------------------------------------------------------


def test_a_run_and_its_checkpoint(faces, tmp_path, in_process):
    here, moved = tmp_path / "here", tmp_path / "moved"
    shutil.copytree(faces, here)
    tree = config_of(here, trainer__save_dir=str(tmp_path / "saved"), trainer__epochs=2).to_dict()
    path = tmp_path / "both.json"
    path.write_text(json.dumps(tree))
    done = in_process("train.py", "-c", str(path), "-d", "cpu", "--run-id", "a")
    assert done.code == 0, done.err
    run_dir = tmp_path / "saved" / "both" / "a"
    assert "images with / without a label in use:" in (run_dir / "train.log").read_text()
    metrics = pd.read_csv(run_dir / "metrics.csv")
    assert metrics[[f"valid/{head}/macro_f1" for head in ("gender", "age", "bangs")]].notna().all(axis=None)
    split = pd.read_csv(run_dir / "split.csv")
    assert set(split["path"].str.split("/").str[0]) == {"utk", "celeba"}

    here.rename(moved)
    roots = [f"dataset.0.args.root={moved / 'utk'}", f"dataset.1.args.root={moved / 'celeba'}"]
    options = [part for root in roots for part in ("-s", root)]
    last = str(run_dir / "checkpoints" / "last.pth")
    tested = in_process("test.py", "--resume", last, "-d", "cpu", *options)
    assert tested.code == 0, tested.err
    scores = json.loads((run_dir / "report" / "metrics.json").read_text())["heads"]
    valid = split[split["split"] == "valid"]["path"].str.split("/").str[0].value_counts()
    support = {head: sum(c["support"] for c in score["per_class"].values()) for head, score in scores.items()}
    assert support == {"gender": valid.sum(), "age": valid["utk"], "bangs": valid["celeba"]}
    for head, score in scores.items():
        assert score["macro_f1"] == pytest.approx(metrics[f"valid/{head}/macro_f1"].iloc[-1], abs=1e-6)
    predictions = pd.read_csv(run_dir / "report" / "predictions.csv")
    assert predictions.loc[predictions["path"].str.startswith("celeba/"), "age/label"].isna().all()
    assert predictions["age/prediction"].notna().all()
    assert (moved / "celeba" / "CelebA-HQ-img").as_uri() in (run_dir / "report" / "index.html").read_text()

    elsewhere = {"type": "UTKFace", "args": {"root": str(moved / "utk"), "age_boundaries": [30]}}
    other = ["-s", f"dataset={json.dumps(elsewhere)}", "--split", "all", "--out", str(tmp_path / "other")]
    assert in_process("test.py", "--resume", last, "-d", "cpu", *other).code == 0
    found = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert found["heads"].keys() == {"gender", "age"} and found["images"] == 80
    more = in_process(
        "train.py", "-r", str(run_dir), "-d", "cpu", *options, "-s", "trainer.epochs=4", "-s", "dataset.0.name=ukt"
    )
    assert more.code == 2 and 'dataset[0].name: "utk" -> "ukt": cannot change' in more.err
    assert load_config(path).data_sets[1][1].args["attribute"] == ["Bangs", "Male"]


def test_explore_looks_into_all_folders(faces, tmp_path):
    (faces / "utk" / "left_over.jpg").write_bytes((faces / "celeba" / "CelebA-HQ-img" / "0.jpg").read_bytes())
    try:
        found = explore(config_of(faces), tmp_path / "look")
    finally:
        (faces / "utk" / "left_over.jpg").unlink()
    files = found["files"]
    assert found["images"] == 140 and not files["missing"] and files["unused_such_as"] == ["utk/left_over.jpg"]
    page = (tmp_path / "look" / "index.html").read_text()
    assert "UTKFace + CelebAHair" in page and str(faces / "celeba") in page
