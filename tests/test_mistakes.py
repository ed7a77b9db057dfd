"""What a user can get wrong outside the config's own text: one message, exit code 2, no traceback, no run folder."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.test_training import write_config
from utils.checkpoint import save_checkpoint


def spoil(config: Path, **sections) -> None:
    tree = json.loads(config.read_text())
    for name, value in sections.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    config.write_text(json.dumps(tree))


def dataset(faces: Path, **changes) -> dict:
    return {"args": {"root": str(faces), "frame": "labels.csv", "attributes": ["hue"], **changes}}


TOLD_BEFORE_IMAGES_ARE_READ = ("backbone", "refused by the optimizer", "stage to freeze", "weights file")


def cases(faces: Path) -> dict[str, tuple[dict, list[str]]]:
    return {
        "typo in a type": ({"optimizer": {"type": "Adan", "args": {}}}, ["optimizer.type", "did you mean 'Adam'"]),
        "backbone": ({"arch": {"args": {"backbone": "resnet5o"}}}, ["resnet5o", "did you mean 'resnet50"]),
        "refused by the optimizer": (
            {"optimizer": {"args": {"lr": -1.0}}},
            ["optimizer.args", "Invalid learning rate"],
        ),
        "refused by the loss": ({"loss": {"type": "cross_entropy", "args": {"label_smoothing": 1.5}}}, ["loss", "1.5"]),
        "refused by a transform": (
            {"views": {"train": [{"type": "RandomCrop", "args": {"height": -3, "width": 8}}]}},
            ["views.train[0]", "RandomCrop"],
        ),
        "normalised twice": ({"views": {"eval": ["Normalize"]}}, ["views.eval[0]", "views.normalize"]),
        "monitor": (
            {"trainer": {"monitor": "max valid/hew/macro_f1"}},
            ["tiny.json: trainer.monitor: nothing is called", "valid/hue/macro_f1"],
        ),
        "no validation images": ({"split": {"valid": 0.0}}, ["split.valid"]),
        "missing folder": ({"dataset": dataset(faces / "nowhere")}, ["nowhere"]),
        "missing table": (
            {"dataset": dataset(faces, frame="lables.csv")},
            ["tiny.json: dataset.args.frame: no file 'lables.csv'", "labels.csv"],
        ),
        "corrections": ({"labels": {"corrections": "nope.csv"}}, ["tiny.json: labels.corrections: "]),
        "another split": ({"split": {"from": "nope.csv"}}, ["tiny.json: split.from: nope.csv: no such file"]),
        "missing column": (
            {"dataset": dataset(faces, attributes=["hew"])},
            ["labels.csv", "hew", "did you mean 'hue'"],
        ),
        "merge that matches nothing": (
            {"labels": {"merge": {"hue": {"warm": ["red", "orange"], "cold": ["blue"]}}}},
            ["labels.merge.hue.warm", "orange"],
        ),
        "too many labels": (
            {"labels": {"labeled": {"count": 5000}}},
            ["tiny.json: labels.labeled.count: 5,000 asked for", "5,000", "72 labels"],
        ),
        "stratify": ({"split": {"stratify": ["hew"]}}, ["tiny.json: split.stratify: no attribute", "hue"]),
        "stage to freeze": (
            {"arch": {"args": {"backbone": "test_efficientnet", "freeze": "layer9"}}},
            ["tiny.json: arch.args.freeze: this backbone has no stage 'layer9'"],
        ),
        "boundaries": (
            {"labels": {"train": {"age_boundaries": [30, 20]}}},
            ["tiny.json: labels.train.age_boundaries: expected rising ages"],
        ),
        "weights file": ({"arch": {"args": {"backbone": "resnet18", "weights": "no.pth"}}}, ["no.pth"]),
        "crop larger than the image": (
            {"views": {"weak": [{"type": "CenterCrop", "args": {"height": 350, "width": 250}}]}},
            ["tiny.json: views.weak[0]: CenterCrop fails on an image of 32 x 32 pixels (views.size)", "350"],
        ),
        "preprocessing at random": (
            {
                "views": {
                    "size": 96,
                    "preprocess": [{"type": "InvertImg", "args": {"p": 1}}, {"type": "CLAHE", "args": {"p": 1}}],
                }
            },
            ["tiny.json: views.preprocess[1]: CLAHE is random", "give it p = 1 and ranges of one value"],
        ),
        "preprocessing now and then": (
            {"views": {"preprocess": ["HorizontalFlip", {"type": "InvertImg", "args": {"p": 0.999}}]}},
            ["tiny.json: views.preprocess[0]: HorizontalFlip is random"],
        ),
        "random after what makes room for it": (
            {
                "views": {
                    "preprocess": [
                        {"type": "Resize", "args": {"height": 64, "width": 64, "p": 1}},
                        {"type": "CenterCrop", "args": {"height": 48, "width": 48, "p": 1}},
                        {"type": "RandomCrop", "args": {"height": 32, "width": 32, "p": 1}},
                    ]
                }
            },
            ["tiny.json: views.preprocess[2]: RandomCrop is random"],
        ),
        "a random preset as preprocessing": (
            {"views": {"preprocess": "light"}},
            ["tiny.json: views.preprocess: light is random"],
        ),
        "view that needs more than an image": (
            {"views": {"eval": ["HorizontalFlip", "HistogramMatching"]}},
            ["tiny.json: views.eval[1]: HistogramMatching fails", "hm_metadata"],
        ),
        "one channel": (
            {"views": {"eval": [{"type": "ToGray", "args": {"num_output_channels": 1}}]}},
            ["tiny.json: views.eval[0]: ToGray gives uint8 [32, 32]"],
        ),
        "plateau by step": (
            {"lr_scheduler": {"type": "ReduceLROnPlateau", "args": {}}},
            ["tiny.json: lr_scheduler.interval: ", 'set it to "epoch"'],
        ),
        "refused by the schedule's step": (
            {"lr_scheduler": {"type": "StepLR", "args": {"step_size": 0}}},
            ["tiny.json: lr_scheduler.args: StepLR with these args cannot work"],
        ),
        "labels of one class": ({"labels": {"filters": ["hue == 'red'"]}}, ["hue: all 24 training labels are 'red'"]),
        "warm-up": (
            {"trainer": {"args": {"warm_up_epochs": -1}}},
            ["tiny.json: trainer.args.warm_up_epochs: expected a number of at least 0, got -1"],
        ),
        "unwritable": ({"trainer": {"save_dir": "/proc/saved"}}, ["tiny.json: trainer.save_dir", "in /proc"]),
        "does not fit": (
            {"data_loader": {"batch_size": 10**6}, "views": {"size": 512}},
            ["does not fit into memory", "lower data_loader.batch_size"],
        ),
        "a name with a slash": (
            {"labels": {"merge": None}, "dataset": dataset(faces, frame="slash.csv", attributes=["hue/2"])},
            ["'hue/2' cannot be the name of a head; rename the attribute"],
        ),
        "too small for the network": (
            {"arch": {"args": {"backbone": "inception_v3"}}},
            ["tiny.json: views.size: the network does not take images of 32 x 32 pixels", "Kernel size"],
        ),
        "seed": ({"seed": 10**20}, ["tiny.json: seed: expected at most 18446744073709551615"]),
        "device": ({}, ["-d cuda:7"]),
    }


@pytest.mark.parametrize("case", list(cases(Path("."))))
def test_mistake(case: str, tmp_path: Path, tiny_faces: Path, in_process):
    config = write_config(tmp_path, tiny_faces)
    (tiny_faces / "slash.csv").write_text((tiny_faces / "labels.csv").read_text().replace("hue", "hue/2"))
    changes, messages = cases(tiny_faces)[case]
    spoil(config, **changes)
    device = ["-d", "cuda:7"] if case == "device" else []
    done = in_process("train.py", "-c", str(config), *device)
    assert done.code == 2, done.err
    assert all(message in done.err for message in messages), done.err
    assert "Traceback" not in done.err and len(done.err.splitlines()) <= 3
    assert not (tmp_path / "saved" / "tiny").exists()
    if case in TOLD_BEFORE_IMAGES_ARE_READ:
        assert not (tmp_path / "saved" / ".cache").exists()


def test_damaged_image_is_named_before_a_run_folder_exists(tmp_path, tiny_faces, run):
    config = write_config(tmp_path, tiny_faces)
    (tiny_faces / "images" / "007.png").write_bytes(b"GIF89a but not really")
    for cache in ("disk", "off"):
        done = run("train.py", "-c", config, "-s", f"data_loader.cache={cache}")
        assert done.code == 2 and "007.png: cannot be decoded" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "saved" / "tiny").exists()


def test_of_several_processes_one_says_what_is_wrong_with_the_config(tmp_path, tiny_faces, in_process, monkeypatch):
    config = write_config(tmp_path, tiny_faces, trainer={"epoches": 3})
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = in_process("train.py", "-c", str(config))
        assert done.code == 2
        said.append(done.err)
    assert "did you mean 'epochs'" in said[0] and said[1] == ""


def test_checkpoints_that_are_none(tmp_path, tiny_faces, in_process):
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    for name, message in (("torn.pth", "damaged"), ("absent.pth", "no such checkpoint")):
        for command in (("train.py", "-r"), ("test.py", "--resume")):
            done = in_process(*command, str(tmp_path / name))
            assert done.code == 2 and name in done.err and message in done.err, done.err


def test_a_run_id_that_exists_is_refused(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    (tmp_path / "saved" / "tiny" / "mine").mkdir(parents=True)
    left = tmp_path / "saved" / "tiny" / "mine"
    (left / "split.csv").write_text("of a process that was killed in its first epoch\n")
    done = in_process("train.py", "-c", str(config), "--run-id", "mine")
    assert done.code == 2 and "before its first checkpoint; begin it again with -r auto" in done.err
    short = ("-s", "trainer.epochs=1", "-s", "trainer.steps_per_epoch=1", "-d", "cpu")
    again = ("train.py", "-c", str(config), *short, "--run-id", "mine", "-r", "auto")
    assert in_process(*again).code == 0 and "path,group" in (left / "split.csv").read_text()
    assert json.loads((left / "config.json").read_text())["trainer"]["precision"] == "fp32", "what auto came to"
    done = in_process(*again)
    assert done.code == 0 and f"{left} is finished; nothing was trained" in done.out, done.err
    done = in_process(*again, "-s", "trainer.epochs=2")
    assert done.code == 0 and "continuing after step 1" in done.out, done.err
    seen = json.loads((left / "environment.json").read_text())
    assert datetime.fromisoformat(seen["started"]) <= datetime.fromisoformat(seen["continued"])
    assert in_process(*again, "-s", "trainer.epochs=2").out.startswith("-r auto:")
    done = in_process(*again, "-s", "seed=4")
    assert done.code == 2 and "is a run of another config (seed: 3 -> 4)" in done.err
    # One of another version, whose keys are no longer known, is in nobody's way.
    path = left / "checkpoints" / "last.pth"
    state = torch.load(path, weights_only=True)
    save_checkpoint(path, {**state, "config": state["config"].replace('"epochs"', '"epoches"')})
    done = in_process("train.py", "-c", str(config), *short, "-r", "auto")
    assert done.code == 0 and f"warning: -r auto: {left} cannot be continued" in done.out + done.err


def test_a_run_does_not_continue_with_other_labels(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    short = ("-s", "trainer.epochs=1", "-s", "trainer.steps_per_epoch=1", "-d", "cpu")
    assert in_process("train.py", "-c", str(config), *short, "--run-id", "x").code == 0
    more = ("train.py", "-r", str(tmp_path / "saved" / "tiny" / "x"), "-s", "trainer.epochs=2", "-d", "cpu")
    table = tiny_faces / "labels.csv"
    before = table.read_text()
    for old, new, message in (
        ("red", "scarlet", "the run learns the classes blue, red of 'hue', today's labels have blue, scarlet"),
        ("g0,blue", "g0,red", "labels of some images have changed since the run started"),
    ):
        table.write_text(before.replace(old, new))
        done = in_process(*more)
        assert done.code == 2 and message in done.err, done.err
    table.write_text(before)
    assert in_process(*more).code == 0


def test_outputs_that_cannot_be_written_are_told_before_the_work(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    folder, file, below = str(tmp_path), str(config), str(config / "new" / "x.csv")
    model = ["--resume", str(tmp_path / "is_not_read.pth"), "-d", "cpu"]
    for command in (
        ["test.py", *model, "--submission"],
        ["predict.py", *model, folder, "--out"],
        ["prepare.py", "duplicates", "-c", str(config), "--out"],
        ["prepare.py", "males", "--root", folder, "--out"],
    ):
        for path, message in ((folder, "is a folder; name a file"), (below, f"{config} is a file, not a folder")):
            done = in_process(*command, path)
            assert (done.code, done.err) == (2, f"error: {command[-1]} {path}: {message}\n")
    for command in (["test.py", *model], ["prepare.py", "explore", "-c", str(config)]):
        done = in_process(*command, "--out", file)
        assert (done.code, done.err) == (2, f"error: --out {file}: is a file; name a folder\n")
    done = in_process("train.py", "-c", str(config), "-s", f"split.from={folder}")
    assert done.code == 2 and "is a folder; expected the split.csv of a run" in done.err, done.err


def test_only_the_newest_checkpoint_of_a_run_continues_it(tmp_path, tiny_faces, in_process):
    """best.pth or model.pth would silently take the run back and overwrite what followed."""
    config = write_config(tmp_path, tiny_faces)
    short = ["-s", "trainer.type=SupervisedTrainer", "-s", "trainer.args={}", "-s", "trainer.steps_per_epoch=1"]
    assert in_process("train.py", "-c", str(config), *short, "--run-id", "a", "-s", "trainer.keep_last=3").code == 0
    run_dir = tmp_path / "saved" / "tiny" / "a"
    before = (run_dir / "metrics.csv").read_bytes()
    older = run_dir / "checkpoints" / "last-2.pth"
    done = in_process("train.py", "-r", str(older), "-s", "trainer.epochs=6")
    assert done.code == 2 and f"{older}: is of epoch 3, but its run has come to epoch 4" in done.err, done.err
    assert f"-r {run_dir}" in done.err and (run_dir / "metrics.csv").read_bytes() == before
    several = in_process("train.py", "-r", str(run_dir.parent))
    assert several.code == 2 and f"is a folder of runs; name one: {run_dir}" in several.err
    other = in_process("test.py", "--resume", str(run_dir), "-s", "arch.args.backbone=resnet18")
    assert other.code == 2 and "holds another network; leave out arch.args.backbone" in other.err, other.err
    like = in_process("test.py", "--resume", str(run_dir), "-s", 'arch.args.head={"default": "plain"}')
    assert like.code == 2 and "holds another network; leave out arch.args.head" in like.err, like.err
    assert in_process("test.py", "--resume", str(run_dir), "-s", "arch.args.dropout=0.5").code == 0
    (run_dir / "checkpoints" / "last.pth").write_bytes(b"PK torn")
    (run_dir / "checkpoints" / ".tmp-0123-best.pth").write_bytes(b"")
    assert in_process("train.py", "-r", str(run_dir)).code == 0
    assert not list(run_dir.rglob(".tmp-*")) and (run_dir / "metrics.csv").read_bytes() != b""


def test_a_run_that_is_damaged_beyond_continuing_does_not_block_auto(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    short = ["-s", "trainer.type=SupervisedTrainer", "-s", "trainer.args={}", "-s", "trainer.steps_per_epoch=1"]
    auto = ["train.py", "-c", str(config), *short, "-s", "trainer.epochs=1"]
    checkpoints = tmp_path / "saved" / "tiny" / "a" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("last.pth", "best.pth", ".tmp-0123-best.pth"):
        (checkpoints / name).write_bytes(b"PK torn")
    refused = in_process("train.py", "-r", str(checkpoints.parent))
    assert refused.code == 2 and "last.pth: damaged" in refused.err and "there is still" not in refused.err, refused.err
    done = in_process(*auto, "-r", "auto")
    assert done.code == 0 and f"-r auto: {checkpoints.parent} cannot be continued" in done.out, done.out + done.err
    (checkpoints / "last.pth").unlink()
    refused = in_process("train.py", "-r", str(checkpoints.parent))
    assert refused.code == 2 and f"there are {checkpoints}/best.pth\n" in refused.err, refused.err


@pytest.mark.parametrize("changes", [{"crop": [16, 20]}, {"preprocess": [{"type": "InvertImg", "args": {"p": 1}}]}])
def test_cropped_and_preprocessed_images_are_scored_and_predicted_as_they_were_learned(
    tmp_path, tiny_faces, in_process, changes
):
    config = write_config(tmp_path, tiny_faces, views={"size": 32, **changes})
    short = ["-s", "trainer.type=SupervisedTrainer", "-s", "trainer.args={}", "-s", "trainer.steps_per_epoch=4"]
    assert in_process("train.py", "-c", str(config), *short, "--run-id", "a", "-s", "trainer.epochs=1").code == 0
    run_dir, out = str(tmp_path / "saved" / "tiny" / "a"), tmp_path / "p.csv"
    assert in_process("test.py", "--resume", run_dir, "--out", str(tmp_path / "report")).code == 0
    assert in_process("predict.py", "--resume", run_dir, "--out", str(out), str(tiny_faces / "images")).code == 0
    scored = pd.read_csv(tmp_path / "report" / "predictions.csv").set_index("path")["hue/p/red"]
    predicted = pd.read_csv(out).set_index("path")["hue/p/red"]
    for path, probability in scored.items():
        assert predicted[str(tiny_faces / path)] == pytest.approx(probability, abs=1e-6)
    logged = pd.read_csv(Path(run_dir) / "metrics.csv")["valid/macro_f1"].iloc[-1]
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["heads"]["hue"]["macro_f1"] == pytest.approx(
        logged, abs=1e-6
    )


def test_predict_takes_a_run_folder_and_names_all_files_that_are_no_images(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    short = ["-s", "trainer.type=SupervisedTrainer", "-s", "trainer.args={}", "-s", "trainer.steps_per_epoch=1"]
    assert in_process("train.py", "-c", str(config), *short, "--run-id", "a", "-s", "trainer.epochs=1").code == 0
    run_dir, out = str(tmp_path / "saved" / "tiny" / "a"), tmp_path / "p.csv"
    pictures = tmp_path / "pictures"
    for name in (b".thumbs/x.png", b".y.png", b"a.png", b"\xe9t\xe9.png"):  # the last is Latin-1, not UTF-8
        place = os.path.join(os.fsencode(pictures), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        shutil.copy(tiny_faces / "images" / "001.png", place)
    done = in_process("predict.py", "--out", str(out), "--resume", run_dir, str(pictures), str(pictures / "a.png"))
    assert done.code == 0 and "2 images" in done.out, done.out + done.err
    assert b"\xe9t\xe9.png" in out.read_bytes() and b".thumbs" not in out.read_bytes()
    out.unlink()
    for name in ("003.png", "005.png"):
        (tiny_faces / "images" / name).write_bytes(b"not a picture")
    done = in_process("predict.py", "--out", str(out), "--resume", run_dir, str(tiny_faces / "images"))
    assert done.code == 2 and "003.png: cannot be decoded" in done.err and "005.png: cannot be" in done.err, done.err
    assert "2 of 96 images have no answer" in done.err and "94 images" in done.out
    table = pd.read_csv(out).set_index("path")
    blank = table["hue/prediction"].isna()
    assert len(table) == 96 and sorted(Path(path).name for path in table.index[blank]) == ["003.png", "005.png"]
    # As scored: the odds move by the labels' log shares, and a vote has weights.
    given = ("predict.py", "--out", str(out), "--resume", run_dir, run_dir, "--weights", "2", "1")
    done = in_process(*given, "-s", "trainer.evaluation_prior=1", str(pictures / "a.png"))
    assert done.code == 0, done.err
    moved, before = pd.read_csv(out).iloc[0], table.loc[str(tiny_faces / "images" / "001.png")]
    odds = [np.log(row["hue/p/red"] / row["hue/p/blue"]) for row in (moved, before)]
    assert odds[0] - odds[1] == pytest.approx(np.log(3), abs=1e-3)
    done = in_process("predict.py", "--resume", run_dir, "--weights", "2", "1", "-d", "cpu", str(pictures))
    assert done.code == 2 and "--weights" in done.err
    out.unlink()
    done = in_process("predict.py", "--out", str(out), "--resume", run_dir, str(tiny_faces / "images" / "003.png"))
    assert done.code == 2 and "003.png: cannot be decoded" in done.err and not out.exists()
