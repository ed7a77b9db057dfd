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
from data_loader.label_frame import LabelFrame, merge_classes
from data_loader.prepare_labels import prepare_labels
from data_loader.readers import LabelCSV
from data_loader.split import check_classes
from data_loader.split_file import write_split
from report.evaluation import HeadPrediction
from report.slices import slice_columns, slice_scores
from report.suspects import read_predictions
from tests.face_runs import draw_faces, train
from tests.test_split import frame_of
from tests.test_submission import AGE, GENDER, MASK, ColourReader, evaluation_images
from trainer import session
from trainer.build import build_trainer
from trainer.evaluate import Loaded
from trainer.label_checks import check_losses, class_notes
from utils.checkpoint import load_checkpoint, save_checkpoint
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


# Labels and groups as people write them ------------------------------------------------------------------------------


def table_of(folder: Path, text: str, **args: object) -> LabelFrame:
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.png").touch()
    (folder / "t.csv").write_text(text)
    return LabelCSV(str(folder), "t.csv", ["glasses"], **args)


def test_persons_that_are_written_in_two_ways_and_blank_ones_are_said(tmp_path):
    text = "path,who,glasses\na.png,Anna B,yes\nb.png,anna  b,no\nc.png,,yes\nd.png,Ben,no\n"
    said = "\n".join(table_of(tmp_path, text, group="who").history)
    assert "column 'who', 4 groups; 1 cells are blank, and each of these images is for itself" in said
    assert "warning: column 'who': 2 groups differ from another in capital letters or blanks only" in said
    assert "(such as 'Anna B' and 'anna  b')" in said
    apart = "\n".join(table_of(tmp_path, text.replace("anna  b", "Anna C"), group="who").history)
    assert "warning" not in apart


def test_labels_that_mean_nothing_lose_their_meaning_and_not_the_image(tmp_path):
    text = "path,glasses,hat\na.png,yes,on\nb.png,?,off\nc.png,no,on\nd.png,n/a,on\n"
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "t.csv").write_text(text)
    frame = LabelCSV(str(tmp_path), "t.csv", ["glasses", "hat"])
    merged = merge_classes(frame, {"glasses": {"yes": ["yes"], "no": ["no"], "unlabeled": ["?", "n/a"]}})
    assert merged.classes["glasses"] == ("yes", "no") and list(merged.rows["glasses"]) == [0, -1, 1, -1]
    assert len(merged) == 4 and (merged.rows["hat"] >= 0).all() and "warning" not in merged.history[-1]
    ignored = merge_classes(frame, {"glasses": {"yes": ["yes"], "no": ["no"], "ignore": ["?", "n/a"]}})
    assert (
        len(ignored) == 2 and "warning: merge glasses: 2 labels of hat go with what is ignored" in ignored.history[-1]
    )
    with pytest.raises(UserError, match=r"labels\.merge\.glasses: a class needs a name"):
        merge_classes(frame, {"glasses": {"yes": ["yes"], "no": ["no"], " ": ["?", "n/a"]}})


def test_an_image_that_is_listed_twice_has_the_label_that_one_row_knows(tmp_path):
    frame = table_of(tmp_path, "path,glasses,hat\na.png,,x\nb.png,no,y\na.png,yes,z\n")
    assert list(frame.rows["path"]) == ["a.png", "b.png"] and frame.describe("glasses").startswith(
        "glasses: no (1), yes (1)"
    )
    with pytest.raises(UserError, match="listed more than once with different labels"):
        table_of(tmp_path, "path,glasses,hat\na.png,,x\na.png,no,y\na.png,yes,z\n")


def test_a_split_that_fails_says_what_helps_and_what_the_reader_warned_of(faces, tmp_path):
    lines = (faces / "faces" / "labels.csv").read_text().splitlines()
    lines[1] = lines[1].replace("female", "Male").replace("male", "Male")
    shutil.copytree(faces / "faces", tmp_path / "faces")
    (tmp_path / "faces" / "labels.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as error:
        prepare_labels(config_of(tmp_path, attributes=["gender"]))
    first, *more = str(error.value).splitlines()
    assert "class 'Male' of gender (1 rows, 1 groups) has none in" in first and "split.stratify" not in first
    assert len(more) == 1 and "the classes 'Male' and 'male' differ in capital letters only" in more[0]
    # Two groups of a class, which joint strata may deal to one side.
    frame = frame_of({"g": np.array([0, 1, 0, 1, 0, 0]), "h": np.array([0, 1, 1, 0, 1, 0])})
    split = pd.Series(["train", "train", "train", "train", "valid", "valid"])
    said = r"\(2 rows, 2 groups\) has none in valid; set split.stratify=\[\"g\"\] to deal out its classes alone, "
    with pytest.raises(UserError, match=said):
        check_classes(frame, split, ["train", "valid"], "split.valid 0.2", "change the shares", stratify=None)
    for by in ((), ["g"]):
        with pytest.raises(UserError, match=r"none in valid; label more of it, merge the class, or change the shares"):
            check_classes(frame, split, ["train", "valid"], "split.valid 0.2", "change the shares", stratify=by)


# Weights that know the validation images ------------------------------------------------------------------------------


def test_weights_that_have_learned_the_validation_images_are_said_now_and_when_the_run_is_tested(faces, in_process):
    first = train(faces, "known", ["gender"])
    weights = f"arch.args.weights={first}"
    other = notes_of(config_of(faces, weights, "split.seed=3", attributes=["gender"], group="person"))
    split = pd.read_csv(first.parents[1] / "split.csv").set_index("path")
    config = config_of(faces, weights, "split.seed=3", attributes=["gender"], group="person")
    labels = prepare_labels(config)
    held = labels.frame.rows["group"][(labels.split == "valid").to_numpy() & labels.frame.labeled.to_numpy()]
    seen = held.isin(set(split["group"][split["split"] == "train"])).sum()
    assert 0 < seen < len(held)
    told = f"{seen} of {len(held)} images of 'valid' have the names of images (or groups) that {first} was trained on"
    assert f"warning: {told}; scores are too good" in other
    same = f"split.from={first.parents[1] / 'split.csv'}"
    assert "was trained on" not in notes_of(config_of(faces, weights, same, attributes=["gender"], group="person"))

    made = session.train(config, run_id="leaky")
    made.train()
    made.logger.close()
    run_dir = faces / "saved" / "x" / "leaky"
    said = in_process("test.py", "--resume", str(run_dir))
    assert said.code == 0 and f"started from weights that may know them: {told}" in said.out, said.out + said.err
    again = in_process("train.py", "-r", str(run_dir), "-s", "trainer.epochs=3")
    assert again.code == 0 and (run_dir / "train.log").read_text().count(told) == 2
    assert load_checkpoint(run_dir / "checkpoints" / "last.pth")["data"]["weights_saw"]["said"] == [told]

    # The next one starts from it with its split: these images are known all the same. Not those of pretraining.
    best = run_dir / "checkpoints" / "best.pth"
    chain = config_of(faces, f"arch.args.weights={best}", f"split.from={run_dir / 'split.csv'}", attributes=["gender"])
    chain = apply_overrides(chain, ['dataset.args.group="person"'])
    assert f"{seen} of {len(held)} images of 'valid'" in notes_of(chain)
    both = config.to_dict()
    (faces / "more").mkdir()
    shutil.copy(faces / "faces" / "images" / "00.png", faces / "more")
    both["dataset"] = [
        {"type": "LabelCSV", "name": "own", "args": both["dataset"]["args"]},
        {"type": "UnlabeledImages", "name": "more", "args": {"root": str(faces / "more")}},
    ]
    assert f"of {len(held)} images of 'valid' have the names" in notes_of(config_from_dict(both, "x.json"))
    state = load_checkpoint(first)
    state["config"] = state["config"].replace('"head": "plain"', '"head": "simclr"')
    stored = json.loads(state["config"])
    stored["arch"]["args"]["head"] = "simclr"
    state["config"] = json.dumps(stored)
    save_checkpoint(faces / "simclr.pth", state)
    pretrained = config_of(faces, f"arch.args.weights={faces / 'simclr.pth'}", "split.seed=3", attributes=["gender"])
    assert "was trained on" not in notes_of(pretrained)


def test_a_check_says_which_files_have_a_copy_on_another_side_of_the_split(faces, tmp_path):
    shutil.copytree(faces / "faces", tmp_path / "faces")
    config = config_of(tmp_path, attributes=["gender"], group="person")
    labels = prepare_labels(config)
    assert not any("have a copy" in line for line in session.check(config, "cpu"))
    held = labels.frame.rows["path"][(labels.split == "valid").to_numpy()].iloc[0]
    table = tmp_path / "faces" / "labels.csv"
    for number in range(3):  # one of three new persons at least is for training
        shutil.copy(tmp_path / "faces" / held, tmp_path / "faces" / "images" / f"copy{number}.png")
        table.write_text(table.read_text() + f"images/copy{number}.png,new{number},wear,male,<30,20\n")
    said = "\n".join(session.check(config, "cpu"))
    assert "have a copy on another side of the split (such as" in said and 'labels.duplicates "exact"' in said


def test_classes_that_say_nothing_are_warned_of_until_they_are_answered(faces, tmp_path):
    shutil.copytree(faces / "faces", tmp_path / "faces")
    table = tmp_path / "faces" / "labels.csv"
    table.write_text(table.read_text().replace(",wear,", ",N/A,"))
    config = config_of(tmp_path, attributes=["mask"])
    labels = prepare_labels(config)
    told = "warning: mask: \"N/A\" is a class like the others; if it means 'not labeled', say so in labels.merge: "
    told += '"unlabeled": ["N/A"]'
    assert class_notes(config, labels) == [told]
    merge = 'labels.merge={"mask": {"incorrect": ["incorrect"], "normal": ["normal"], "unlabeled": ["N/A"]}}'
    merged = config_of(tmp_path, merge, attributes=["mask"])
    assert class_notes(merged, prepare_labels(merged)) == []
    given = config_of(tmp_path, attributes=["mask"], classes={"mask": ["N/A", "incorrect", "normal"]})
    assert class_notes(given, prepare_labels(given)) == []


def test_what_belongs_to_one_data_set_serves_a_list_with_it(faces, tmp_path):
    """Unlabeled images are added: validation images and corrections stay what they were."""
    config = config_of(faces, attributes=["gender"], group="person")
    labels = prepare_labels(config)
    write_split(tmp_path / "split.csv", labels.frame, labels.split)
    (faces / "faces" / "fixes.csv").write_text("path,id,field,from,to,why\nimages/00.png,,gender,,unsure,x\n")
    (tmp_path / "more").mkdir()
    cv2.imwrite(str(tmp_path / "more" / "0.png"), np.zeros((8, 8, 3), np.uint8))
    tree = config.to_dict()
    tree["dataset"] = [
        {**tree["dataset"], "name": "own", "attributes": None},
        {"type": "UnlabeledImages", "name": "more", "args": {"root": str(tmp_path / "more")}},
    ]
    tree["dataset"][0] = {key: value for key, value in tree["dataset"][0].items() if value is not None}
    tree["split"] = {"from": str(tmp_path / "split.csv")}
    tree["labels"]["corrections"] = "fixes.csv"
    both = prepare_labels(config_from_dict(tree, "x.json"))
    sides = dict(zip(both.frame.rows["path"], both.split))
    assert {path: sides[f"own/{path}"] for path in labels.frame.rows["path"]} == dict(
        zip(labels.frame.rows["path"], labels.split)
    )
    assert sides["more/0.png"] == "train" and int(both.frame.rows["gender"].iloc[0]) == -1
    (faces / "faces" / "fixes.csv").unlink()
