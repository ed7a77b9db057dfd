"""The house rules that a reader relies on: floors, budgets, configs that run, a fresh schema."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_data_sets import ANNOTATION, paint
from tests.test_mask_faces import competition
from tests.test_sampling import PEOPLE
from trainer.build import build_trainer
from utils.config import load_config, schema_text
from utils.distributed import World

PROJECT = Path(__file__).resolve().parents[1]
FLOORS = {"utils": 1, "logger": 2, "base": 3, "data_loader": 4, "model": 4, "report": 4, "trainer": 5}
TRAINERS = [
    p for p in sorted((PROJECT / "trainer").glob("*.py")) if re.search(r"^class \w+Trainer\(", p.read_text(), re.M)
]
CONFIGS = sorted(p for p in (PROJECT / "configs").rglob("*.json") if p.name != "schema.json")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down_only(room: str):
    for path in (PROJECT / room).rglob("*.py"):
        upward = {name for name in imported(path) if name != room and FLOORS.get(name, 0) >= FLOORS[room]}
        commands = imported(path) & {"train", "test", "predict", "prepare"}
        assert not upward | commands, f"{path} imports {upward | commands}"


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("train.py", 80),
        ("base/base_trainer.py", 300),
        *((f"trainer/{path.name}", 150) for path in TRAINERS),
    ],
)
def test_files_that_are_read_first_stay_short(path: str, lines: int):
    assert len((PROJECT / path).read_text().splitlines()) <= lines


def test_schema_is_fresh():
    from trainer.components import KINDS

    assert (PROJECT / "configs" / "schema.json").read_text() == schema_text(KINDS), "run: make schema"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(PROJECT)))
def test_every_config_is_valid_and_says_what_it_is(path: Path):
    from trainer.components import check_components

    config = load_config(path)
    check_components(config)
    raw = json.loads(path.read_text())
    assert (path.parent / raw["$schema"]).resolve() == PROJECT / "configs" / "schema.json"
    assert ("python train.py -c" in config.about and config.name in path.stem) or "demo" in str(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A few faces in the layout of each reader that a config names."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    competition(root / "MaskFaces", PEOPLE[:30])
    tables = {
        "CelebAHair": ["60", "Bangs Male"],
        "hair": ["file,forehead"],
        "LabelCSV": ["path,label,split,ffhq_id"],
    }
    for i in range(60):
        male, bangs = i % 3 > 0, i % 5 == 0
        name = f"{(20, 45, 70)[i // 2 % 3]}_{i % 2}_0_{i:04d}.jpg"
        for place in (f"UTKFace/{name}", f"CelebAHair/CelebA-HQ-img/{i}.jpg", f"LabelCSV/{i}.jpg"):
            paint(root / place, male, bangs, rng)
        tables["CelebAHair"].append(f"{i}.jpg  {1 if bangs else -1} {1 if male else -1}")
        tables["hair"].append(f"{i}.jpg,{i // 3 % 3}")
        tables["LabelCSV"].append(
            f"{i}.jpg,{('correct', 'incorrect')[i % 2]},{('training', 'testing')[i % 9 == 8]},{i}"
        )
    for name, lines in tables.items():
        file = {"CelebAHair": ANNOTATION, "hair": "../CelebAHair/label_frame.csv"}.get(name, "labels.csv")
        (root / name).mkdir(exist_ok=True)
        (root / name / file).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(PROJECT)))
def test_every_config_trains_at_reduced_size(path: Path, folders: Path, tmp_path: Path):
    """Its own components and options, on a few small images with a small network of the same kind."""
    config = load_config(path)
    transformer = config.arch.args["backbone"].startswith("vit")
    small = [
        f"views.size={160 if transformer else 32}",
        f"arch.args.backbone={'test_vit' if transformer else 'test_efficientnet'}",
        *("arch.args.pretrained=false", "data_loader.batch_size=8", "data_loader.unlabeled_ratio=2"),
        *("data_loader.num_workers=0", "data_loader.cache=off", "trainer.steps_per_epoch=2"),
        f"trainer.save_dir={tmp_path / 'saved'}",
    ]
    if config.labels.labeled is not None:
        small.append('labels.labeled={"count": 8}')
    for place, part in config.data_sets:
        small.append(f"{place.replace('[', '.').replace(']', '')}.args.root={folders / part.type}")
    built = build_trainer(load_config(path, small), torch.device("cpu"), World(), {}, tell=lambda _: None)
    built.trainer.network.train()
    assert torch.isfinite(built.trainer.train_on(built.trainer.data.first_batch()))
    assert not (tmp_path / "saved" / config.name).exists()
    if config.data_loader.one_per_group is not None:
        shown = re.search(r"one_per_group: a pass shows (\d+) of (\d+)", "\n".join(built.notes))
        assert shown and int(shown[1]) / int(shown[2]) == 3 / 7, built.notes  # one mask of five, and two photos
