"""What a user can get wrong outside the config's own text: one message, exit code 2, no traceback, no run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_training import write_config


def spoil(config: Path, **sections) -> None:
    tree = json.loads(config.read_text())
    for name, value in sections.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    config.write_text(json.dumps(tree))


def dataset(faces: Path, **changes) -> dict:
    return {"args": {"root": str(faces), "frame": "labels.csv", "attributes": ["hue"], **changes}}


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
        "device": ({}, ["-d cuda:7"]),
    }


@pytest.mark.parametrize("case", list(cases(Path("."))))
def test_mistake(case: str, tmp_path: Path, tiny_faces: Path, in_process):
    config = write_config(tmp_path, tiny_faces)
    changes, messages = cases(tiny_faces)[case]
    spoil(config, **changes)
    device = ["-d", "cuda:7"] if case == "device" else []
    done = in_process("train.py", "-c", str(config), *device)
    assert done.code == 2, done.err
    assert all(message in done.err for message in messages), done.err
    assert "Traceback" not in done.err and len(done.err.splitlines()) <= 3
    assert not (tmp_path / "saved" / "tiny").exists()


def test_damaged_image_is_named_before_a_run_folder_exists(tmp_path, tiny_faces, run):
    config = write_config(tmp_path, tiny_faces)
    (tiny_faces / "images" / "007.png").write_bytes(b"GIF89a but not really")
    for cache in ("disk", "off"):
        done = run("train.py", "-c", config, "-s", f"data_loader.cache={cache}")
        assert done.code == 2 and "007.png: cannot be decoded" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "saved" / "tiny").exists()


def test_checkpoints_that_are_none(tmp_path, tiny_faces, in_process):
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    for name, message in (("torn.pth", "damaged"), ("absent.pth", "no such checkpoint")):
        for command in (("train.py", "-r"), ("test.py", "--resume")):
            done = in_process(*command, str(tmp_path / name))
            assert done.code == 2 and name in done.err and message in done.err, done.err


def test_a_run_id_that_exists_is_refused(tmp_path, tiny_faces, in_process):
    config = write_config(tmp_path, tiny_faces)
    (tmp_path / "saved" / "tiny" / "mine").mkdir(parents=True)
    done = in_process("train.py", "-c", str(config), "--run-id", "mine")
    assert done.code == 2 and "--run-id mine" in done.err and "-r " in done.err


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
