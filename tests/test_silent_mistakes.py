"""What looks right and is not: each is said, or does what was meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from base.monitor import Monitor
from report.evaluation import HeadPrediction
from report.slices import slice_columns, slice_scores
from report.suspects import read_predictions
from tests.face_runs import draw_faces, train
from tests.test_submission import AGE, GENDER, MASK, ColourReader, evaluation_images
from trainer.build import build_trainer
from trainer.evaluate import Loaded
from trainer.label_checks import check_losses
from utils.checkpoint import load_checkpoint
from utils.config import apply_overrides, config_from_dict, load_config
from utils.distributed import World
from utils.errors import ConfigError, UserError


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("silent")
    draw_faces(folder / "faces")
    return folder


def config_of(faces: Path, *overrides: str, **args: object):
    tree = {
        "name": "x",
        "dataset": {
            "type": "LabelCSV",
            "args": {"root": str(faces / "faces"), "frame": "labels.csv", "attributes": ["age"], **args},
        },
        "split": {"valid": 0.4, "stratify": []},
        "views": {"size": 24},
        "data_loader": {"batch_size": 8, "num_workers": 0, "cache": "ram"},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": False}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "trainer": {"type": "SupervisedTrainer", "epochs": 2, "steps_per_epoch": 2, "save_dir": str(faces / "saved")},
        "logger": {"console": False, "tensorboard": False},
    }
    return apply_overrides(config_from_dict(tree, "x.json"), overrides)


def notes_of(config) -> str:
    return "\n".join(build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None).notes)


# Imbalance, order, learning rates ------------------------------------------------------------------------------------


def test_an_imbalance_is_not_corrected_twice_without_a_word(faces):
    for loss in ('{"type": "logit_adjustment"}', '{"type": "focal", "args": {"class_weight": "inverse"}}'):
        said = notes_of(config_of(faces, f"loss={loss}", "data_loader.sampler=balanced"))
        assert "data_loader.sampler both correct the imbalance of age" in said
        assert "both correct" not in notes_of(config_of(faces, f"loss={loss}"))
    mixed = 'loss={"default": {"type": "mixture", "args": {"parts": ["soft_f1", "logit_adjustment"]}}}'
    assert "loss.default (logit_adjustment) and" in notes_of(config_of(faces, mixed, "data_loader.sampler=weighted"))
    assert "both correct" not in notes_of(config_of(faces, "data_loader.sampler=balanced"))
    by = 'data_loader.sampler={"type": "balanced", "args": {"by": "age"}}'
    weighted = {"type": "cross_entropy", "args": {"class_weight": "inverse"}}
    for head, said in (("gender", False), ("age", True)):
        losses = f"loss={json.dumps({head: weighted, 'default': {'type': 'cross_entropy'}})}"
        notes = notes_of(config_of(faces, losses, by, attributes=["age", "gender"]))
        assert (f"both correct the imbalance of {head}" in notes) == said and notes.count("both correct") == said


def test_an_ordinal_loss_goes_by_ages_in_their_order(faces):
    """As text '30-59' comes first; without a word the young would be between the middle-aged and the old."""
    with pytest.raises(
        ConfigError, match=r"'age' are in the order 30-59, <30, >=60; give dataset.args.classes: <30, 30-"
    ):
        notes_of(config_of(faces, "loss.type=ordinal"))
    given = config_of(faces, 'loss={"type": "mixture", "args": {"parts": ["ordinal"]}}', classes={"age": list(AGE)})
    assert "ordinal loss of age: <30 < 30-59 < >=60" in notes_of(given)
    off = 'loss={"age": {"type": "ordinal", "weight": 0}, "default": {"type": "cross_entropy"}}'
    assert "ordinal" not in notes_of(config_of(faces, off, attributes=["age", "gender"]))


def test_arcface_needs_cosines_of_its_own_scale(faces):
    for arch, said in (("", "its classifiers are linear"), ("arch.args.cosine_scale=16", "it is 16")):
        with pytest.raises(ConfigError, match=rf"loss: .*set arch.args.cosine_scale to 30 \({said}\)"):
            notes_of(config_of(faces, "loss.type=arcface", *filter(None, [arch])))
    notes_of(config_of(faces, 'loss={"type": "arcface", "args": {"scale": 16}}', "arch.args.cosine_scale=16"))
    parts = 'loss={"type": "mixture", "args": {"parts": ["arcface", "focal"]}}'
    with pytest.raises(ConfigError, match="arcface takes cosines"):
        notes_of(config_of(faces, parts))


def test_a_backbone_that_learns_faster_than_its_head_and_a_single_epoch_are_said(faces):
    said = notes_of(config_of(faces, "optimizer.args.lr=1e-4", "optimizer.backbone_lr=2e-4", "trainer.epochs=1"))
    assert "warning: optimizer.backbone_lr 0.0002 is above optimizer.args.lr 0.0001" in said
    assert "warning: trainer.epochs: one epoch is a trial" in said
    assert "warning" not in notes_of(config_of(faces, "optimizer.backbone_lr=1e-3"))


# Persons on both sides -----------------------------------------------------------------------------------------------


def test_folders_on_both_sides_are_told_where_nothing_groups_their_images(faces, tmp_path):
    table = pd.read_csv(faces / "faces" / "labels.csv", keep_default_na=False)
    table["path"] = [f"{person}/{Path(path).name}" for path, person in zip(table["path"], table["person"])]
    for old, new in zip(sorted((faces / "faces" / "images").iterdir()), table["path"]):
        (tmp_path / "faces" / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(old, tmp_path / "faces" / new)
    table.to_csv(tmp_path / "faces" / "labels.csv", index=False)
    said = notes_of(config_of(tmp_path))
    assert "groups: none, each of 72 images is for itself" in said
    assert "folders have images on two sides (such as p" in said and "dataset.args.group" in said
    said = notes_of(config_of(tmp_path, group="person"))
    assert "groups: 36 of 72 images; none is on two sides of the split" in said and "warning" not in said
    assert "warning" not in notes_of(config_of(faces))  # one folder of all images says nothing about persons


# Warm-up -------------------------------------------------------------------------------------------------------------


def test_patience_begins_after_the_warm_up_and_a_best_epoch_in_it_is_said(faces, capsys):
    monitor = Monitor("max valid/f1", 2)
    monitor.warm_up = 3
    exhausted = []
    for epoch, value in enumerate([0.9, 0.1, 0.1, 0.1, 0.1], start=1):
        monitor.update(epoch, {"valid/f1": value})
        exhausted.append(monitor.exhausted)
    assert exhausted == [False] * 4 + [True]
    args = '{"warm_up_epochs": 3, "ramp_up": 0.0}'
    config = config_of(
        faces, "trainer.type=FixMatchTrainer", f"trainer.args={args}", "trainer.epochs=9", "trainer.early_stop=2",
        "data_loader.unlabeled_ratio=1", "optimizer.args.lr=1e-12", "arch.args.batch_norm=frozen",  # no epoch is better
    )  # fmt: skip
    from trainer import session

    trainer = session.train(config, None, [], None, "cpu", "warm")
    trainer.train()
    trainer.logger.close()
    log = (faces / "saved" / "x" / "warm" / "train.log").read_text()
    assert trainer.epoch >= 5 and "early stop" in log
    assert "it lies in the warm-up, so what was kept has learned from labeled images alone" in log
    assert "device cpu" in log and "precision fp32" in log


# Scoring -------------------------------------------------------------------------------------------------------------


def test_a_run_folder_is_scored_by_its_best_checkpoint_and_the_file_is_named(faces, tmp_path, in_process):
    best = train(faces, "gender", ["gender"], trainer={
        "type": "SupervisedTrainer", "epochs": 3, "steps_per_epoch": 2, "save_dir": str(faces / "saved"),
        "monitor": "min train/loss",
    })  # fmt: skip
    last = best.with_name("last.pth")
    state = load_checkpoint(last)
    torch.save({**state, "classes": {}}, last)  # the last one would be refused
    run = best.parents[1]
    done = in_process("test.py", "--resume", str(run), "-d", "cpu", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["checkpoints"] == [str(best)]
    refused = in_process("test.py", "--resume", str(run), "-d", "cpu", "-s", "views.normalize=half")
    assert refused.code == 2 and "trained with its own views.normalize; leave out views.normalize" in refused.err
    # Another label of a validation image, on the same split.
    split = pd.read_csv(run / "split.csv").set_index("path")["split"]
    table = pd.read_csv(faces / "faces" / "labels.csv", keep_default_na=False)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "images").symlink_to(faces / "faces" / "images")
    for side, noted in (("valid", True), ("train", False)):
        row = table.index[table["path"].map(split) == side][0]
        other = {"male": "female", "female": "male"}[table["gender"][row]]
        table.assign(gender=table["gender"].where(table.index != row, other)).to_csv(
            tmp_path / "faces" / "labels.csv", index=False
        )
        given = ("-s", f"dataset.args.root={tmp_path / 'faces'}", "-s", f"split.from={run / 'split.csv'}")
        done = in_process("test.py", "--resume", str(best), "-d", "cpu", "--out", str(tmp_path / "o"), *given)
        assert done.code == 0, done.err
        assert ("labels of validation images have changed" in done.out) == noted


def test_labels_are_not_suspected_by_a_model_that_has_learned_them(tmp_path):
    rows = [f"{n}.jpg,{side},a,0.9,0.1" for n, side in enumerate(["train", "valid", "", "test", "train"])]
    file = tmp_path / "predictions.csv"
    file.write_text("\n".join(["path,split,x/label,x/p/a,x/p/b", *rows]) + "\n")
    paths, (head,) = read_predictions(file)
    assert list(paths) == ["1.jpg", "2.jpg", "3.jpg"] and len(head.labels) == 3
    file.write_text("path,split,x/label,x/p/a,x/p/b\n1.jpg,train,a,0.9,0.1\n")
    with pytest.raises(UserError, match="trained on all of these images"):
        read_predictions(file)


def test_each_model_answers_about_its_own_images(tmp_path, in_process, monkeypatch):
    """One of two models was trained on crops: it must see crops here too, and the answers meet by name."""
    labels = evaluation_images(tmp_path / "data")
    crops = tmp_path / "crops" / "eval" / "images"
    crops.mkdir(parents=True)
    for name, label in labels.items():  # the crops say what the pictures do not: their gender is the other one
        colour = (label // 6 * 100, (1 - label // 3 % 2) * 200, label % 3 * 100)
        cv2.imwrite(str(crops / name), np.full((16, 12, 3), colour, np.uint8))
    info = (tmp_path / "data" / "eval" / "info.csv").read_text().splitlines()
    (crops.parent / "info.csv").write_text("\n".join([info[0], *reversed(info[1:])]) + "\n")
    classes = {"mask": MASK, "gender": GENDER, "age": AGE}

    def load(path: Path, *_: object) -> Loaded:
        of_crops = path.name == "crops.pth"
        root = tmp_path / ("crops" if of_crops else "data") / "train"
        tree = {
            "name": "x", "dataset": {"type": "MaskFaces", "args": {"root": str(root)}}, "views": {"size": [16, 12]},
            "data_loader": {"cache": "off"}, "arch": {"type": "FaceClassifier"}, "optimizer": {"type": "AdamW"},
            "trainer": {"type": "SupervisedTrainer", "epochs": 1, "save_dir": str(tmp_path / "saved")},
        }  # fmt: skip
        offsets = {head: torch.zeros(len(names)) for head, names in classes.items()}
        config, scale = config_from_dict(tree, "x"), [[0.0] * 3, [1.0] * 3]
        return Loaded(path, config, ColourReader(), classes, scale, offsets, {}, tmp_path, "x/1", 1)

    monkeypatch.setattr("trainer.evaluate.load_for_evaluation", load)
    files = [str(tmp_path / name) for name in ("raw.pth", "crops.pth")]
    out = tmp_path / "answers.csv"
    given = ("-d", "cpu", "--submission", str(out))
    done = in_process("test.py", "--resume", *files, "--weights", "1", "9", *given)
    assert done.code == 0 and "some models see the images beside" in done.out, done.err
    wanted = {name: label + (3 if label // 3 % 2 == 0 else -3) for name, label in labels.items()}
    assert dict(pd.read_csv(out).to_numpy().tolist()) == wanted
    (crops.parent / "info.csv").write_text("\n".join(info[:-1]) + "\n")
    done = in_process("test.py", "--resume", *files, *given)
    assert done.code == 2 and "has other images than" in done.err and "(1, such as" in done.err


def test_no_shipped_config_corrects_an_imbalance_twice():
    heads = {
        "forehead": ("shown", "covered"), "bangs": ("no_bangs", "bangs"), "mask": MASK, "gender": GENDER, "age": AGE,
        "worn": ("no", "yes"), "state": MASK,
    }  # fmt: skip
    labels = SimpleNamespace(frame=SimpleNamespace(heads=heads))
    files = sorted((Path(__file__).parents[1] / "configs").rglob("*.json"))
    checked = [load_config(file) for file in files if file.name != "schema.json"]
    assert len(checked) > 15 and any(config.data_loader.sampler != "random" for config in checked)
    for config in checked:
        assert not [note for note in check_losses(config, labels) if "warning" in note], config.name


# Disk ----------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_nearly_full_is_told_before_the_first_checkpoint(faces, tmp_path, in_process, monkeypatch):
    config = config_of(faces, f"trainer.save_dir={tmp_path / 'new' / 'saved'}", "trainer.keep_last=3")
    (tmp_path / "c.json").write_text(json.dumps(config.to_dict()))
    size = sum(tensor.numel() * 4 for tensor in build_trainer(
        config, torch.device("cpu"), World(), {}, tell=lambda _: None).trainer.model.parameters())  # fmt: skip
    for free, said in ((3 * size * 6 // 2, True), (3 * size * 7, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        done = in_process("train.py", "-c", str(tmp_path / "c.json"), "-d", "cpu", "--check")
        assert done.code == 0 and ("are free in" in done.out) == said, done.out
    assert not (tmp_path / "new").exists()


# Crops ---------------------------------------------------------------------------------------------------------------


def test_a_model_of_face_crops_is_not_used_on_whole_pictures_without_a_word(faces, tmp_path, in_process):
    shutil.copytree(faces / "faces", tmp_path / "faces")
    (tmp_path / "crops.csv").write_text("path\n")  # crops of a folder that the data set is a part of
    models = {"crops": train(tmp_path, "gender", ["gender"]), "whole": train(faces, "whole", ["gender"])}
    pictures = {"crops": tmp_path / "faces" / "images", "whole": faces / "faces" / "images"}
    said = {
        "crops": "was trained on face crops (prepare.py crops), these are not",
        "whole": "was trained on whole pictures, these are face crops",
    }
    for model, path in models.items():
        for shown, folder in pictures.items():
            done = in_process(
                "predict.py", "--resume", str(path), "-d", "cpu", "--out", str(tmp_path / "p.csv"), str(folder)
            )
            assert done.code == 0 and (said[model] in done.out) == (shown != model), done.out
            root = f"dataset.args.root={folder.parent}"
            given = ("-d", "cpu", "--split", "all", "--out", str(tmp_path / "out"), "-s", root)
            done = in_process("test.py", "--resume", str(path), *given)
            assert done.code == 0 and (said[model] in done.out) == (shown != model), done.out


# Scores by column ----------------------------------------------------------------------------------------------------


def test_scores_are_given_apart_for_each_value_of_a_column(faces, tmp_path, in_process):
    best = train(faces, "both", ["gender", "age"])
    given = ("test.py", "--resume", str(best), "-d", "cpu", "--out", str(tmp_path / "out"))
    done = in_process(*given, "--by", "mask", "gender", "--by", "years")
    assert done.code == 0 and "by mask\n" in done.out, done.err
    by = json.loads((tmp_path / "out" / "metrics.json").read_text())["by"]
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False).set_index("path")
    table = pd.read_csv(faces / "faces" / "labels.csv", keep_default_na=False).set_index("path").loc[rows.index]
    assert list(by) == ["mask", "gender", "years"] and list(by["mask"]) == ["incorrect", "normal", "wear"]
    for value, found in by["mask"].items():
        part = rows[table["mask"] == value]
        assert found["images"] == len(part)
        known = part[part["age/label"] != ""]
        assert found["heads"]["age"]["images"] == len(known)
        right = (known["age/label"] == known["age/prediction"]).mean()
        assert found["heads"]["age"]["accuracy"] == pytest.approx(right)
    assert set(by["gender"]["male"]["heads"]) == {"age", "joint"}
    assert list(by["years"]) == sorted(by["years"], key=int)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>By mask</h2>" in page and 'href="#by.1"' in page
    for column, message in (("masks", "did you mean 'mask'?"), ("person", "different values; expected at most 30")):
        done = in_process(*given, "--split", "all", "--by", column)
        assert done.code == 2 and f"--by {column}: " in done.err and message in done.err
    done = in_process(*given, "--by", "gender", "age")
    assert done.code == 2 and "--by age: is all that is predicted" in done.err
    floats = slice_columns(pd.DataFrame({"x": [100.0, 20.0, np.nan, 3.5]}), {}, ["x"])
    assert floats == {"x": ["100", "20", "(none)", "3.5"]}
    head = HeadPrediction("h", ("a", "b"), np.zeros(4, np.int64), np.full((4, 2), 0.5))
    assert list(slice_scores([head], list("pqrs"), floats)["x"]) == ["3.5", "20", "100", "(none)"]
