"""Mistakes of the competition's baseline that have no better place, and the table in docs/data.md of all of them."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from base import checkpointing
from tests.test_training import write_config
from trainer.build import build_trainer
from utils.config import load_config
from utils.distributed import World

PROJECT = Path(__file__).resolve().parents[1]
SMALL = {"type": "SupervisedTrainer", "args": {}, "epochs": 4, "steps_per_epoch": 2, "keep_last": 2}


def test_every_mistake_has_a_test_that_is_there():
    page = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.split("### What went wrong with the baseline")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (?!mistake|-)(.*) \|$", section, re.MULTILINE)
    assert len(rows) == 15
    for row in rows:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            tree = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def trainer_of(tmp_path: Path, faces: Path, **sections):
    sections = {"trainer": SMALL, "data_loader": {"num_workers": 0}, "labels": {"labeled": None}, **sections}
    config = load_config(write_config(tmp_path, faces, **sections))
    return build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None).trainer


def test_defect_04_validation_images_are_not_augmented(tmp_path: Path, tiny_faces: Path):
    views = {"size": 32, "train": [{"type": "InvertImg", "args": {"p": 1.0}}], "eval": "none"}
    data = trainer_of(tmp_path, tiny_faces, views=views).data
    seen = 0
    for stream, batches in (("labeled", data.train_batches(0, 6, {})), ("eval", data.evaluation_batches("valid"))):
        for batch in batches:
            faces = batch[stream]
            for image, path in zip(faces["image"].numpy(), data.paths(faces["row"].tolist())):
                pixels = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
                assert (image == (255 - pixels if stream == "labeled" else pixels)).all()
                seen += 1
    assert seen == 6 * 4 + 24


def test_defect_07_macro_f1_is_that_of_all_images(tmp_path: Path, tiny_faces: Path, monkeypatch):
    """Batches of 5, of which some have one class only: their mean, or the last one's value, is another number."""
    monkeypatch.setattr("data_loader.face_data._EVALUATION_BATCH", 5)
    made = trainer_of(tmp_path, tiny_faces)
    batches = list(made.data.evaluation_batches("valid"))
    torch.manual_seed(1)
    for parameter in made.model.heads.parameters():
        torch.nn.init.normal_(parameter)
    made.model.eval()
    with torch.no_grad():
        found = [made.model(made.normalize(b["eval"]["image"]))["hue"].argmax(1).numpy() for b in batches]
    true = [batch["eval"]["target"]["hue"].numpy() for batch in batches]
    whole = f1_score(np.concatenate(true), np.concatenate(found), average="macro")
    each = [f1_score(t, p, average="macro") for t, p in zip(true, found)]
    assert len(each) == 5 and abs(np.mean(each) - whole) > 1e-3 and abs(each[-1] - whole) > 1e-3
    values = made.scoring.evaluate(made.model, batches, "valid")
    assert values["valid/macro_f1"] == pytest.approx(whole, abs=1e-12)
    assert made.monitor.name == "valid/macro_f1" and made.monitor.mode == "max"


def test_defect_14_each_checkpoint_is_scored_through_its_own_view(tmp_path: Path, tiny_faces: Path, in_process):
    """Two models of different size and view vote; what each says is what it says alone."""
    runs, alone = [], []
    for name, views in (
        ("plain", {"size": 32}),
        ("other", {"size": [40, 24], "eval": [{"type": "InvertImg", "args": {"p": 1.0}}]}),
    ):
        config = write_config(
            tmp_path, tiny_faces, name=name, trainer=SMALL, views=views, data_loader={"num_workers": 0}
        )
        done = in_process("train.py", "-c", str(config), "--run-id", "x", "-d", "cpu")
        assert done.code == 0, done.err
        runs.append(str(tmp_path / "saved" / name / "x" / "checkpoints" / "best.pth"))
        done = in_process("test.py", "--resume", runs[-1], "-d", "cpu", "--out", str(tmp_path / name))
        assert done.code == 0, done.err
        alone.append(pd.read_csv(tmp_path / name / "predictions.csv")["hue/p/red"].to_numpy())
    done = in_process("test.py", "--resume", *runs, "-d", "cpu", "--out", str(tmp_path / "both"))
    assert done.code == 0, done.err
    together = pd.read_csv(tmp_path / "both" / "predictions.csv")["hue/p/red"].to_numpy()
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    assert together == pytest.approx(np.mean(alone, axis=0), abs=1e-9)


def test_defect_15_the_best_checkpoint_stays_and_says_how_it_was_made(tmp_path: Path, tiny_faces: Path, in_process):
    config = write_config(tmp_path, tiny_faces, trainer=SMALL, data_loader={"num_workers": 0})
    done = in_process("train.py", "-c", str(config), "--run-id", "x", "-d", "cpu")
    assert done.code == 0, done.err
    run_dir = tmp_path / "saved" / "tiny" / "x"
    files = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert files == {"best.pth", "last.pth", "last-1.pth"}  # four epochs, keep_last 2
    best = torch.load(run_dir / "checkpoints" / "best.pth", weights_only=True)
    table = pd.read_csv(run_dir / "metrics.csv")
    assert best["epoch"] == table["epoch"][table["valid/macro_f1"].idxmax()]
    assert json.loads(best["config"]) == json.loads((run_dir / "config.json").read_text())
    environment = json.loads(best["environment"])
    assert json.loads(best["config"])["seed"] == 3 and {"git", "torch"} <= {
        key.split("_")[0] for key in _keys(environment)
    }


def _keys(tree: dict) -> set[str]:
    return set(tree) | {key for part in tree.values() if isinstance(part, dict) for key in _keys(part)}


def test_a_kill_between_best_and_last_does_not_lose_the_best(tmp_path: Path, tiny_faces: Path, in_process, monkeypatch):
    """best.pth is written first: whoever continues repeats the epoch, and both files are those of a whole run."""
    trainer = {**SMALL, "monitor": "min train/loss"}
    config = write_config(tmp_path, tiny_faces, trainer=trainer, data_loader={"num_workers": 0})
    assert in_process("train.py", "-c", str(config), "--run-id", "whole", "-d", "cpu").code == 0
    link, calls = checkpointing.link_checkpoint, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise SystemExit(137)
        link(*arguments)

    monkeypatch.setattr(checkpointing, "link_checkpoint", killed)
    done = in_process("train.py", "-c", str(config), "--run-id", "killed", "-d", "cpu")
    assert done.code == 137 and len(calls) == 2
    done = in_process("train.py", "-c", str(config), "-r", str(tmp_path / "saved" / "tiny" / "killed"), "-d", "cpu")
    assert done.code == 0, done.err
    for name in ("best.pth", "last.pth"):
        files = [tmp_path / "saved" / "tiny" / run / "checkpoints" / name for run in ("whole", "killed")]
        one, other = (torch.load(file, weights_only=True) for file in files)
        assert one["epoch"] == other["epoch"]
        torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
