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
        "monitor": ({"trainer": {"monitor": "max valid/hew/macro_f1"}}, ["trainer.monitor", "valid/hue/macro_f1"]),
        "no validation images": ({"split": {"valid": 0.0}}, ["split.valid"]),
        "missing folder": ({"dataset": dataset(faces / "nowhere")}, ["nowhere"]),
        "missing table": ({"dataset": dataset(faces, frame="lables.csv")}, ["lables.csv", "labels.csv"]),
        "missing column": (
            {"dataset": dataset(faces, attributes=["hew"])},
            ["labels.csv", "hew", "did you mean 'hue'"],
        ),
        "merge that matches nothing": (
            {"labels": {"merge": {"hue": {"warm": ["red", "orange"], "cold": ["blue"]}}}},
            ["labels.merge.hue.warm", "orange"],
        ),
        "too many labels": ({"labels": {"labeled": {"count": 5000}}}, ["labels.labeled.count", "5,000", "72 labels"]),
        "stratify": ({"split": {"stratify": ["hew"]}}, ["split.stratify", "hue"]),
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
