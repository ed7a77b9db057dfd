"""The documentation is true: links, files, options, keys, components and the log; its examples run."""

from __future__ import annotations

import ast
import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
import torch

from logger.console import epoch_line
from model.weights import WeightSpec
from tests.face_runs import CLASSES as FACES
from tests.face_runs import draw_faces
from trainer.collapse_signs import Expected, find_collapse
from trainer.components import KINDS
from trainer.pseudo_label.labeler import PseudoLabeler
from trainer.session import MAY_CHANGE
from utils.config import Config, load_config
from utils.config.catalogue import SCHEMA_FILE
from utils.config.json_schema import Schema, branches, expected

PROJECT = Path(__file__).resolve().parents[1]
README, EXTENDING, CONFIG = PROJECT / "README.md", PROJECT / "docs" / "extending.md", PROJECT / "docs" / "config.md"
SEMI, PREPARE = PROJECT / "docs" / "semi_supervised.md", PROJECT / "docs" / "prepare.md"
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
ROOMS = "base|benchmarks|configs|data_loader|docs|logger|model|report|tests|trainer|utils"
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    return str(page.relative_to(PROJECT))


@functools.cache
def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(read(page)) if name == language]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of every table."""
    found = re.findall(r"^(\|.*\|)\n\|[-| ]+\|\n((?:\|.*\|\n?)*)", read(page), re.MULTILINE)
    for header, rows in found:
        yield cells(header), [cells(row) for row in rows.splitlines()]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# Names of things that must exist -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(page))):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            there = (page.parent / file).resolve() if file else page
            assert there.exists(), f"{named(page)}: {target}"
            assert not anchor or anchor in anchors(there), f"{named(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Path):
    examples = {block.split()[1] for block in blocks(EXTENDING, "python")} | set(
        re.findall(r"Save this as `([^`]+)`", read(README))
    )
    pattern = (
        rf"(?<![\w./])((?:{ROOMS})/[\w./-]*\.(?:py|json|md)|(?:train|test|prepare|predict)\.py|requirements[\w-]*\.txt)"
    )
    wanted = set(re.findall(pattern, read(page))) - examples
    assert not sorted(name for name in wanted if not (PROJECT / name).exists())


def test_the_map_of_the_code_names_files_that_are_there():
    folder = ""
    for header, rows in tables(PROJECT / "docs" / "architecture.md"):
        if header == ["room", "file", "what"]:
            for room, files, _ in rows:
                folder = room.strip("`") or folder
                for file in re.findall(r"`([^`]+)`", files):
                    assert (PROJECT / folder / file).exists(), f"{folder}{file}"


def test_make_targets_that_are_named_exist_and_the_readme_is_short():
    targets = set(re.findall(r"^([\w-]+):", read(PROJECT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        used = set(re.findall(r"^ *make ([a-z]+)", read(page), re.MULTILINE))
        used |= set(re.findall(r"`make ([a-z]+)", read(page)))
        assert used <= targets, f"{named(page)}: {used - targets}"
    assert len(read(README).splitlines()) < 300


def options_of(help_text: str) -> list[set[str]]:
    """The spellings of each option: [{"-c", "--config"}, …]."""
    lines = re.findall(r"^  (-.*)$", help_text, re.MULTILINE)
    return [set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", line.split("  ")[0])) for line in lines]


@pytest.fixture
def commands(in_process) -> dict[str, list[set[str]]]:
    """The options of every command, by its name: `train.py`, `prepare.py demo`, …"""
    parts = re.findall(r"^    ([a-z]+)(?: |$)", in_process("prepare.py", "--help").out, re.MULTILINE)
    names = [path.name for path in PROJECT.glob("*.py") if path.name != "prepare.py"]
    names += [f"prepare.py {part}" for part in parts]
    return {name: options_of(in_process(*name.split(), "--help").out) for name in names}


def check_options(page: Path, sections: dict[str, str], commands: dict[str, list[set[str]]]) -> None:
    """Each section's tables name exactly the options of its command."""
    assert sections.keys() == commands.keys()
    for command, options in commands.items():
        firsts = " ".join(re.findall(r"^\| (.*?) \|", sections[command], re.MULTILINE))
        said = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", firsts))
        lacking = [spellings for spellings in options if not spellings & (said | {"--help"})]
        assert not lacking, f"{named(page)}, `python {command}`: not listed: {lacking}"
        assert said <= set().union(*options), f"{named(page)}, `python {command}`: {said - set().union(*options)}"


def test_every_command_is_listed_with_its_options(commands):
    sections = read(README).split("\n## Commands\n")[1].split("\n## ")[0].split("\n`python ")[1:]
    listed = {re.split(r" -|`", section)[0]: section for section in sections}
    prepare = {name: options for name, options in commands.items() if name.startswith("prepare.py ")}
    others = {name: options for name, options in commands.items() if name not in prepare}
    rows = re.findall(r"^\| `([a-z]+)` \|", listed.pop("prepare.py COMMAND", ""), re.MULTILINE)
    assert [f"prepare.py {row}" for row in rows] == list(prepare)
    check_options(README, listed, others)
    pages = re.split(r"^## ", read(PREPARE), flags=re.MULTILINE)[1:]
    check_options(PREPARE, {f"prepare.py {page.split()[0]}": page for page in pages}, prepare)


def test_options_that_the_pages_name_exist(commands):
    known = {"--nproc_per_node", "--logdir"}.union(*(spellings for found in commands.values() for spellings in found))
    for benchmark in (PROJECT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z][\w-]*)"', read(benchmark)))
    for page in PAGES:
        used = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", read(page)))
        assert used <= known, f"{named(page)}: no such option: {used - known}"


# The config ----------------------------------------------------------------------------------------------------------


def keys_of(schema: Schema, root: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """(key, schema) of everything that a config may say outside `args`."""
    for branch in branches(schema, root):
        for name, part in branch.get("properties", {}).items():
            key = f"{path}.{name}".removeprefix(".")
            yield key, part
            yield from keys_of(part, root, key)
        further = branch.get("additionalProperties")
        if isinstance(further, dict) and path == "loss":
            yield from keys_of(further, root, "loss.HEAD")
        if isinstance(branch.get("items"), dict) and path == "dataset":
            yield from keys_of(branch["items"], root, path)


def documented(kinds: set[str], width: int) -> dict[tuple[str, ...], list[str]]:
    """Rows of docs/config.md's tables `KIND | … | value | default | meaning`, by their first `width` cells."""
    found: dict[tuple[str, ...], list[str]] = {}
    for header, rows in tables(CONFIG):
        if header[0] in kinds and header[width:] == ["value", "default", "meaning"]:
            found |= {tuple(cell.replace("`", "") for cell in row[:width]): row for row in rows}
    return found


def shown_default(schema: Schema, required: bool) -> str:
    return "–" if required else f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def test_every_config_key_is_documented_with_type_and_default():
    root = Config.model_json_schema()
    found = dict(keys_of(root, root))
    rows = {key: row for (key,), row in documented({"key"}, 1).items() if key != "$schema"}
    lacking = [
        f"| `{key}` | {expected(part, root)} | … | {part.get('description', '')} |"
        for key, part in found.items()
        if key not in rows
    ]
    assert not lacking, "docs/config.md lacks:\n" + "\n".join(lacking)
    assert not rows.keys() - found.keys(), "docs/config.md has keys that the config has not"
    for key, part in found.items():
        value, default = rows[key][1:3]
        if value:
            assert value == expected(part, root), key
        if default:
            assert default == shown_default(part, "default" not in part), key


def test_every_component_of_ours_is_documented_with_its_arguments():
    rows = documented({"reader", "network", "loss", "trainer", "switch", "schedule"}, 2)
    switches = ("threshold", "align", "debias", "class_weight", "mix")
    known, wrong = set(), []
    for kind in ("dataset", "arch", "loss", "metric", "trainer", "preset", "lr_scheduler", *switches):
        for name, member in KINDS[kind].members.items():
            if member.__module__.startswith("torch."):
                continue
            if f"`{name}`" not in read(CONFIG):
                wrong.append(f"{kind} `{name}` is not named")
            shown = f"{kind} {name}" if kind in switches else name
            for argument, parameter in KINDS[kind].signature(name, KINDS).parameters.items():
                value, default = expected(parameter.schema), shown_default(parameter.schema, parameter.required)
                known.add((shown, argument))
                if rows.get((shown, argument), [])[2:4] != [value, default]:
                    first = f"{kind} `{name}`" if kind in switches else f"`{name}`"
                    wrong.append(f"| {first} | `{argument}` | {value} | {default} | … |")
    wrong += [f"what is not there: {' '.join(row)}" for row in sorted(rows.keys() - known)]
    assert not wrong, "docs/config.md lacks, or says otherwise:\n" + "\n".join(wrong)


def test_options_of_weight_files_are_documented():
    rows = next(rows for header, rows in tables(CONFIG) if header[0] == "option")
    found = {row[0].strip("`"): row[1] for row in rows}
    fields = WeightSpec.model_fields
    assert found.keys() == fields.keys()
    assert all(found[name] == shown_default({"default": f.default}, f.is_required()) for name, f in fields.items())


def test_what_may_change_in_a_continued_run_is_documented():
    listed = read(PROJECT / "docs" / "resume.md").split("What may change:")[1].split(".\n")[0]
    assert tuple(re.findall(r"`([^`]+)`", listed)) == MAY_CHANGE


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")], ids=named)
def test_json_examples_are_valid_configs(page: Path, tmp_path: Path):
    for number, block in enumerate(blocks(page, "json")):
        example = json.loads(block)
        base = PROJECT / "configs" / example.pop("extends", "fixmatch_hair.json")
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({"extends": str(base), **example}))
        # What extending.md names is what its reader is to write.
        load_config(path, catalogue=None if page.name == "extending.md" else SCHEMA_FILE)


def test_the_log_in_the_readme_is_what_the_code_prints():
    sample = next(block for block in blocks(README, "") if block.startswith("epoch"))
    values = {
        "train/loss": 0.1652,
        "train/loss_labeled": 0.1096,
        "train/loss_unlabeled": 0.1189,
        "valid/loss": 0.1892,
        "valid/accuracy": 0.9407,
        "valid/macro_f1": 0.838,
        "lr": 9.6e-4,
        "seconds": 250.5,
    }
    classes, counts = ("no_bangs", "bangs"), torch.tensor([179.0, 21.0])
    labeler = PseudoLabeler(classes, counts, KINDS["threshold"].build("fixed", ""))
    pseudo = {
        "pass_rate": 0.64,
        "pseudo/no_bangs": 0.966,
        "pseudo/bangs": 0.034,
        "pseudo_kl": 0.036,
        "confidence": 0.946,
        "pseudo_accuracy": 0.975,
    }
    line = epoch_line(12, 40, 3072, values, best=True)
    assert sample.splitlines() == [line, "  " + labeler.describe("bangs", pseudo)]


def epochs(*rows: tuple[float, float, float, float]) -> list[dict[str, float]]:
    """Values of epochs from (pass rate, share of bangs, labeled loss, unlabeled loss)."""
    return [
        {
            "train/bangs/pass_rate": rate,
            "train/loss_labeled": labeled,
            "train/loss_unlabeled": unlabeled,
            **({"train/bangs/pseudo/no_bangs": 1 - rare, "train/bangs/pseudo/bangs": rare} if rate else {}),
        }
        for rate, rare, labeled, unlabeled in rows
    ]


def test_the_warnings_in_the_docs_are_what_the_guard_says():
    histories = (
        epochs(*[(0, 0, 0.5, 0)] * 2),
        epochs(*[(1, 0.105, 0.5, 0.3)] * 2),
        epochs(*[(0.9, 0.6, 0.5, 0.2)] * 2),
        epochs(*[(0.8, 0.004, 0.5, 0.2)] * 3),
        [{**values, "train/bangs/pseudo_accuracy": 0.901} for values in epochs(*[(0.8, 0.1, 0.5, 0.2)] * 2)],
        [{**epochs((0.9, 0.02, 0.5, 0.2))[0], "valid/bangs/recall/no_bangs": 1.0, "valid/bangs/recall/bangs": 0.0}],
        epochs((0.5, 0.1, 0.3, 0.1), (0.5, 0.1, 0.2, 0.12), (0.5, 0.1, 0.1, 0.15)),
    )
    expected = {"bangs": Expected({"no_bangs": 0.895, "bangs": 0.105})}
    said = [[f"warning: {sign.text}" for sign in find_collapse(found, len(found), expected)] for found in histories]
    block = next(block for block in blocks(SEMI, "") if block.startswith("warning: "))
    assert said == [[line] for line in block.splitlines()]


def test_every_switch_is_explained():
    """Each name is in the tables of the formulas, and those that are not the default also in the guide."""
    found = {header[0]: {row[0] for row in rows} for header, rows in tables(SEMI)}
    for kind in ("threshold", "align", "debias"):
        assert {name.strip("`") for name in found[f"`{kind}`"]} == set(KINDS[kind].names())
    guide = next(rows for header, rows in tables(SEMI) if header == ["situation", "switch"])
    advised = " ".join(switch for _, switch in guide)
    names = {name for kind in ("threshold", "align", "debias") for name in KINDS[kind].names()}
    assert not {name for name in names - {"uniform"} if name not in advised}


# The recipes for three models of one attribute each run ---------------------------------------------------------------


def expanded(recipe: str) -> list[list[str]]:
    """The arguments of each `python …` of a recipe, as a shell passes them on."""
    script = "python() { printf '%s\\n' \"$@\" ''; }\n" + recipe
    said = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True, timeout=60).stdout
    return [command.splitlines() for command in said.split("\n\n") if command]


@pytest.mark.parametrize("page", ["data.md", "evaluation.md"])
def test_the_recipes_for_single_attributes_run(page: str, tmp_path: Path, in_process, monkeypatch):
    """Three trainings on one split, whose answers `test.py` puts together."""
    draw_faces(tmp_path / "faces")
    config = {
        "name": "mask_gender_age_single",
        "dataset": {
            "type": "LabelCSV",
            "args": {
                "root": "faces", "frame": "labels.csv", "group": "person", "attributes": list(FACES), "classes": FACES,
            },
        },
        "split": {"valid": 0.4},
        "views": {"size": 24},
        "data_loader": {"batch_size": 16, "num_workers": 0},
        "arch": {"type": "FaceClassifier", "args": {"backbone": "test_efficientnet"}},
        "optimizer": {"type": "AdamW", "args": {"lr": 0.01}},
        "trainer": {"type": "SupervisedTrainer", "epochs": 1, "steps_per_epoch": 2},
        "logger": {"tensorboard": False},
    }  # fmt: skip
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mask_gender_age_single.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    (recipe,) = (block for block in blocks(PROJECT / "docs" / page, "") if block.startswith("single="))
    *trainings, answer = expanded(recipe)
    for command in trainings:
        done = in_process(*command, "-d", "cpu")
        assert done.code == 0, done.err
    splits = [pd.read_csv(path) for path in Path("saved").rglob("split.csv")]
    assert len(splits) == 3
    assert all(split.set_index("path").split.equals(splits[0].set_index("path").split) for split in splits)
    done = in_process(*(part for part in answer if "submission" not in part), "-d", "cpu")
    assert done.code == 0, done.err
    (report,) = Path("saved").rglob("metrics.json")
    found = json.loads(report.read_text())
    assert found["heads"].keys() == FACES.keys() and found["joint"]["macro_f1"] >= 0


# The examples of docs/extending.md run -------------------------------------------------------------------------------


def insert(path: Path, before: str, text: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{path}: '{before}'"
    path.write_text(source.replace(before, text + before), encoding="utf-8")


def add_to_house(house: Path, block: str) -> str:
    """Follow the page: put the block into its file and its name where the page says. Returns the name."""
    file = block.split()[1]
    path, is_new = house / file, not (house / file).exists()
    name = next(node.name for node in ast.parse(block).body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    if file == "data_loader/views.py":
        insert(path, "\n\nPRESETS:", "\n\n" + block)
        source = re.sub(r"(for preset in \([^)]*)\)", rf"\1, {name})", path.read_text(encoding="utf-8"), count=1)
        path.write_text(source, encoding="utf-8")
        return name
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n\n" + block)
    if not is_new and "__all__ = [" in path.read_text(encoding="utf-8"):
        path.write_text(path.read_text(encoding="utf-8").replace("__all__ = [", f'__all__ = ["{name}", ', 1))
    if is_new and path.parent.name == "readers":
        init = path.parent / "__init__.py"
        insert(init, "__all__ = [", f"from data_loader.readers.{path.stem} import {name}\n\n")
        init.write_text(init.read_text().replace("__all__ = [", f'__all__ = ["{name}", '))
    elif is_new and path.parent.name == "trainer":
        insert(path.parent / "components.py", "\nKINDS:", f"from trainer import {path.stem}\n")
        insert(path.parent / "components.py", "supervised, fixmatch", f"{path.stem}, ")
    return name


RUN_ALL = """
import json, runpy, sys
configs = sys.argv[1:]
for number, config in enumerate(configs):
    sys.argv = ["train.py", "-c", config, "--run-id", str(number), "-d", "cpu"]
    runpy.run_path(sys.path[0] + "/train.py", run_name="__main__")
from trainer.components import KINDS
print(json.dumps([name for kind in KINDS.values() for name in kind.names()]))
"""


def test_the_examples_of_extending_train(tmp_path: Path, tiny_faces: Path):
    """Both configs in one process: with FixMatch everything up to the last section, then that section's trainer."""
    house = tmp_path / "house"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "saved", "data", "wandb", "tests", "docs", "benchmarks")
    shutil.copytree(PROJECT, house, ignore=left_out)
    names = [add_to_house(house, block) for block in blocks(EXTENDING, "python")]
    assert len(names) == 8

    (tmp_path / "data" / "named").mkdir(parents=True)
    for path in sorted((tiny_faces / "images").glob("*.png")):
        label = "none" if int(path.stem) % 8 == 7 else "blue" if int(path.stem) % 4 == 0 else "red"
        picture = cv2.imread(str(path))
        assert picture is not None
        cv2.imwrite(str(tmp_path / "data" / "named" / f"{label}_{path.stem}.jpg"), picture)
    base: dict[str, Any] = {
        "name": "extended",
        "dataset": {"type": "ImageFolder"},
        "labels": {"labeled": {"count": 16}},
        "views": {"size": 32},
        "data_loader": {"batch_size": 4, "unlabeled_ratio": 2, "num_workers": 0},
        "arch": {"type": "FaceClassifier"},
        "optimizer": {"type": "AdamW", "args": {"lr": 5e-3}, "backbone_lr": 2e-3},
        "trainer": {"type": "SupervisedTrainer", "epochs": 2, "steps_per_epoch": 4},
        "logger": {"tensorboard": False},
    }
    (tmp_path / "0.json").write_text(json.dumps(base))
    fragments = blocks(EXTENDING, "json")
    for number, fragment in enumerate(fragments, start=1):
        extended = {"extends": f"{number - 1}.json", **json.loads(fragment)}
        (tmp_path / f"{number}.json").write_text(json.dumps(extended))
    (house / "run_all.py").write_text(RUN_ALL)
    configs = [f"{len(fragments) - 1}.json", f"{len(fragments)}.json"]
    command = [sys.executable, str(house / "run_all.py"), *configs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(names) <= set(json.loads(done.stdout.splitlines()[-1]))

    fixmatch, mirror = (pd.read_csv(tmp_path / "saved" / "extended" / run / "metrics.csv") for run in "01")
    assert fixmatch["valid/geometric_mean"].notna().all() and fixmatch["lr"].iloc[-1] == pytest.approx(5e-4)
    assert fixmatch["train/hue/threshold/red"].between(0.5, 1).all()
    assert (mirror["train/mirror"] > 0).all()

    rows = next(rows for header, rows in tables(SEMI) if header[:2] == ["value", "meaning"])
    for shown in (row[0].strip("`") for row in rows):
        columns = {f"train/hue/{shown.replace('CLASS', name)}" for name in ("red", "blue")}
        assert columns & set(fixmatch), shown
    checkpoint = tmp_path / "saved" / "extended" / "0" / "checkpoints" / "last.pth"
    rows = next(rows for header, rows in tables(PROJECT / "docs" / "resume.md") if header == ["key", "content"])
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(listed) == sorted(torch.load(checkpoint, weights_only=True))
