"""Attributes one at a time and together: models of one attribute share a split; each head has metrics of its own."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from tests.test_mask_faces import competition
from tests.test_sampling import PEOPLE
from trainer.build import build_trainer
from trainer.components import check_components
from utils.config import Config, load_config
from utils.distributed import World
from utils.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = [
    "views.size=32",
    "data_loader.batch_size=8",
    "data_loader.num_workers=0",
    'arch={"type": "FaceClassifier", "args": {"backbone": "test_efficientnet", "pretrained": false}}',
    "trainer.epochs=1",
    "trainer.steps_per_epoch=2",
    "trainer.ema=null",
    "lr_scheduler.args.warm_up=1",
    "logger.tensorboard=false",
]


def flags(*overrides: str) -> list[str]:
    return [part for text in overrides for part in ("-s", text)]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A small competition with an evaluation part."""
    tmp_path = tmp_path_factory.mktemp("faces")
    competition(tmp_path / "data" / "train", PEOPLE[:30])
    (tmp_path / "data" / "eval" / "images").mkdir(parents=True)
    rng, names = np.random.default_rng(0), [f"{'b' * n}a.jpg" for n in (3, 1, 2)]
    for name in names:
        cv2.imwrite(
            str(tmp_path / "data" / "eval" / "images" / name), rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        )
    (tmp_path / "data" / "eval" / "info.csv").write_text("ImageID,ans\n" + "".join(f"{name},0\n" for name in names))
    return tmp_path / "data"


# One attribute of several --------------------------------------------------------------------------------------------


def test_three_models_of_one_config_and_split_make_one_answer(tmp_path: Path, faces: Path, in_process):
    """The commands of the config's `about` and of docs/data.md."""
    root, save = f"dataset.args.root={faces}", f"trainer.save_dir={tmp_path / 'saved'}"
    config = CONFIGS / "mask_gender_age_single.json"
    folder, runs = tmp_path / "saved" / "mask_gender_age_single", []
    for name in ("age", "gender", "mask"):
        overrides = [*SMALL, root, save]
        if runs:
            overrides += [f'dataset.attributes=["{name}"]', f"split.from={folder / 'age' / 'split.csv'}"]
        done = in_process("train.py", "-c", str(config), "--run-id", name, "-d", "cpu", *flags(*overrides))
        assert done.code == 0, done.err
        runs.append(folder / name)
        assert list(torch.load(runs[-1] / "checkpoints" / "best.pth", weights_only=True)["classes"]) == [name]
    splits = [pd.read_csv(run / "split.csv")[["path", "split"]] for run in runs]
    assert splits[0].equals(splits[1]) and splits[0].equals(splits[2])
    done = in_process(
        "test.py", "--resume", *map(str, runs), "-d", "cpu", "--submission", str(tmp_path / "answers.csv")
    )
    assert done.code == 0, done.err
    assert list(pd.read_csv(tmp_path / "answers.csv")["ImageID"]) == ["bbba.jpg", "ba.jpg", "bba.jpg"]
    done = in_process("test.py", "--resume", *map(str, runs), "-d", "cpu", "--out", str(tmp_path / "report"))
    assert done.code == 0 and json.loads((tmp_path / "report" / "metrics.json").read_text())["joint"], done.err


# Metrics per head ----------------------------------------------------------------------------------------------------


def trainer_of(config: Config):
    return build_trainer(config, torch.device("cpu"), World(), {}, tell=lambda _: None).trainer


def multihead(faces: Path, tmp_path: Path, *overrides: str) -> Config:
    where = [f"dataset.args.root={faces}", f"trainer.save_dir={tmp_path / 'saved'}"]
    return load_config(CONFIGS / "mask_multihead.json", [*SMALL, *where, *overrides])


def test_each_head_is_measured_by_its_own_metrics(faces: Path, tmp_path: Path):
    chosen = 'metrics={"age": ["macro_f1", "min_recall"], "default": ["accuracy", "macro_f1"]}'
    config = multihead(faces, tmp_path, chosen, "trainer.monitor=max valid/age/min_recall")
    made = trainer_of(config)
    confusion = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    of_three = torch.tensor([[2.0, 0, 0], [0, 1, 1], [0, 0, 5]])
    values = made.scoring.metrics("valid", {"mask": of_three, "gender": confusion, "age": of_three})
    assert set(values) == {
        "valid/accuracy",
        "valid/macro_f1",
        "valid/min_recall",
        *(f"valid/{head}/{name}" for head in ("mask", "gender") for name in ("accuracy", "macro_f1")),
        *(f"valid/age/{name}" for name in ("macro_f1", "min_recall")),
    }
    assert values["valid/min_recall"] == values["valid/age/min_recall"] == 0.5
    assert values["valid/accuracy"] == pytest.approx((8 / 9 + 7 / 8) / 2)
    assert values["valid/macro_f1"] == pytest.approx(
        np.mean([values[f"valid/{head}/macro_f1"] for head in ("mask", "gender", "age")])
    )
    assert json.loads(json.dumps(config.to_dict()))["metrics"]["age"] == ["macro_f1", "min_recall"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            'metrics={"age": ["macro_f2"], "default": ["macro_f1"]}',
            "metrics.age[0]: no metric 'macro_f2'; did you mean",
        ),
        # What is monitored by default is not measured then either, but that is not what is wrong.
        ('metrics=["f1"]', "metrics[0]: no metric 'f1'; choose from accuracy, "),
        ('metrics={"age": "macro_f1"}', "metrics.age: expected a non-empty list of strings"),
        ('metrics={"age": []}', "metrics.age: expected a non-empty list of strings"),
        ("metrics=[]", 'metrics: expected a non-empty list of names or {HEAD or "default": [names]}'),
        ('metrics={"agee": ["macro_f1"], "default": ["macro_f1"]}', "metrics.agee: the data has no attribute 'agee'"),
        (
            'loss={"agee": {"type": "focal"}, "default": {"type": "focal"}}',
            "loss.agee: the data has no attribute 'agee'",
        ),
        ("trainer.monitor=max valid/age/ece", "trainer.monitor: nothing is measured as 'valid/age/ece'"),
        (
            "trainer.monitor=max valid/mask/min_recall",
            "trainer.monitor: nothing is measured as 'valid/mask/min_recall'",
        ),
    ],
)
def test_mistakes_about_heads_are_named(faces: Path, tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError) as error:
        config = multihead(faces, tmp_path, override)
        check_components(config)
        trainer_of(config)
    assert message in str(error.value)


def test_weights_that_leave_nothing_to_learn_are_refused(faces: Path, tmp_path: Path):
    config = multihead(
        faces,
        tmp_path,
        *(f"loss.{head}.weight=0" for head in ("mask", "gender", "age")),
        "trainer.args.weighting=fixed",
    )
    with pytest.raises(ConfigError, match="loss: the weight of every head is 0, so that nothing would be learned"):
        trainer_of(config)


def test_a_head_without_metrics_is_named(faces: Path, tmp_path: Path):
    path = tmp_path / "config.json"
    base = str(CONFIGS / "mask_gender_age_single.json")
    path.write_text(json.dumps({"extends": base, "metrics": {"mask": ["macro_f1"]}}))
    with pytest.raises(ConfigError, match="no metrics for the head 'age' and no 'default'"):
        trainer_of(load_config(path, [*SMALL, f"dataset.args.root={faces}", f"trainer.save_dir={tmp_path}"]))
