"""Shared fixtures: a trainer around any model, and commands as real processes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from base.base_trainer import BaseTrainer
from base.parts import Parts
from trainer.components import KINDS
from trainer.optimizer import build_optimizer
from trainer.schedule import build_scheduler
from utils.config import Component, config_from_dict
from utils.distributed import World

PROJECT = Path(__file__).resolve().parents[1]


class NoData:
    """Training data for a test that feeds batches itself."""

    images_per_batch = 1

    def __init__(self, classes: Mapping[str, tuple[str, ...]]):
        self.classes = classes
        self.class_counts = {head: torch.ones(len(names)) for head, names in classes.items()}

    def size(self, split: str) -> int:
        return 1

    def evaluation_batches(self, split: str) -> Iterator:
        return iter(())


@pytest.fixture
def make_trainer() -> Callable[..., BaseTrainer]:
    def make(model: Any, classes: Mapping[str, tuple[str, ...]], **sections: Any) -> BaseTrainer:
        config = config_from_dict(
            {"name": "test", "dataset": {"type": "LabelCSV"}, "arch": {"type": "FaceClassifier"}, **sections}, "test"
        )
        optimizer = build_optimizer(config, model)
        loss = partial(KINDS["loss"].find("cross_entropy", "loss"), class_counts=None)
        scheduler = build_scheduler(config, optimizer, config.trainer.steps_per_epoch) if config.lr_scheduler else None
        parts = Parts(
            config=config,
            model=model,
            data=NoData(classes),  # type: ignore[arg-type]
            losses=dict.fromkeys(classes, (loss, 1.0)),
            metrics={head: {"macro_f1": KINDS["metric"].find("macro_f1", "metrics")} for head in classes},
            optimizer=optimizer,
            scheduler=scheduler,
            normalization=((0.5,) * 3, (0.5,) * 3),
            device=torch.device("cpu"),
            dtype=torch.float32,
            world=World(),
            steps_per_epoch=config.trainer.steps_per_epoch or 1,
            environment={},
        )
        component = Component(type=config.trainer.type, args=config.trainer.args)
        return KINDS["trainer"].build(component, "trainer", KINDS, parts=parts)

    return make


@pytest.fixture
def run() -> Callable[..., SimpleNamespace]:
    """Run a command of the project as a user would: `run("train.py", "-c", …)` -> code, out, err."""

    def call(*arguments: str | Path, cwd: Path | None = None, timeout: float = 300) -> SimpleNamespace:
        command = [sys.executable, str(PROJECT / str(arguments[0])), *map(str, arguments[1:])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout, env=environment)
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return call


@pytest.fixture
def in_process(monkeypatch, capsys) -> Callable[..., SimpleNamespace]:
    """As `run`, without the seconds of a new process: for commands that end before they train."""

    def call(script: str, *arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        code = 0
        try:
            runpy.run_path(str(PROJECT / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return call


@pytest.fixture(scope="session")
def face_models(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints `mask`, `mask2`, `gender`, `age` of one split, `other` (gender) of another; the folder `faces`."""
    from tests.face_runs import train_all

    return train_all(tmp_path_factory.mktemp("face_models"))


@pytest.fixture
def tiny_faces(tmp_path: Path) -> Path:
    """96 pictures of 32 x 32 pixels whose hue says the class (red 3 : blue 1), with labels.csv (path, group, hue)."""
    root = tmp_path / "tiny"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["path,group,hue"]
    for i in range(96):
        blue = i % 4 == 0
        picture = rng.integers(0, 120, (32, 32, 3)).astype(np.uint8)
        picture[8:24, 8:24, 0 if blue else 2] += 110  # OpenCV writes BGR
        cv2.imwrite(str(root / "images" / f"{i:03d}.png"), picture)
        lines.append(f"images/{i:03d}.png,g{i // 2},{'blue' if blue else 'red'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root
