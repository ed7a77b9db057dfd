"""The house rules that a reader relies on: floors, budgets, configs that run, a fresh schema."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from utils.config import load_config, schema_text

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
