"""`prepare.py explore`: a config's data as one page and one JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_loader import data_check
from data_loader.cache import open_images
from data_loader.image_files import ImageFile, describe_files, inspect_all
from data_loader.image_reader import ImageReader
from data_loader.label_frame import LabelFrame
from data_loader.prepare_labels import draw_split, prepare_labels, read_labels
from data_loader.row_views import view_of
from data_loader.views import is_random
from report.page.data_page import DataPage, Sheet, ViewSheet, render_data_page
from report.page.gallery import picture_of, thumb
from trainer.components import KINDS, check_components
from utils.config import Config
from utils.errors import ConfigError, UserError
from utils.files import atomic_write
from utils.random_state import sample_seeds

PER_CLASS = 12
PER_JOINT_CLASS = 6
MOST_JOINT_SHEETS = 20
MOST_VIEWED, DRAWS = 8, 6  # images, and draws of each


def explore(
    config: Config, out: Path, workers: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Write OUT/index.html and OUT/explore.json; returns the latter's content.

    What keeps a training from starting (a class too small for the split, say) is a problem on the page, as long as the
    images and labels can be read at all. Raises UserError if they cannot, or OUT is no folder.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file")
    frame = read_labels(config)
    split, refused = None, []
    try:
        split = draw_split(config, frame)[0]
        history = prepare_labels(config).frame.history
    except UserError as error:
        history, refused = frame.history, [f"training would not start: {error}"]
    wrong = _wrong_components(config)
    refused += [f"training would not start: {problem}" for problem in wrong]
    paths = [str(path) for path in frame.rows["path"]]
    facts = inspect_all([frame.file(path) for path in paths], workers, progress)
    parts = data_check.in_parts(frame)
    check: dict[str, Any] = {
        "name": config.name,
        "dataset": config.to_dict()["dataset"],
        "images": len(frame),
        "problems": [],
        "attributes": data_check.count_labels(parts, split),
        "joint": data_check.count_joint(parts),
        "cross": data_check.cross_tables(parts),
        "columns": data_check.count_columns(parts),
        "ages": data_check.count_ages(parts),
        "groups": data_check.count_groups(frame),
        "split": None if split is None else data_check.count_split(frame, split),
        "files": describe_files(paths, facts, frame.folders),
        "duplicates": data_check.exact_duplicates(parts, facts, split),
        "history": list(history),
    }
    warned = [note.removeprefix("warning: ") for note in history if note.startswith("warning: ")]
    check["problems"] = [*refused, *data_check.find_problems(check, config.views.shape), *warned]
    kinds = " + ".join(part.type for _, part in config.data_sets)
    source = ", ".join([kinds, *map(str, frame.folders.values())])
    views = [] if split is None or wrong else _views(config, frame, split.to_numpy() == "train", facts)
    page = DataPage(f"{config.name}: data", source, check, _sheets(parts, check), views)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "explore.json", json.dumps(check, indent=1, ensure_ascii=False) + "\n")
    atomic_write(out / "index.html", render_data_page(page))
    return check


def _wrong_components(config: Config) -> list[str]:
    try:
        check_components(config)
    except ConfigError as error:
        return error.problems
    return []


def _views(config: Config, frame: LabelFrame, train: np.ndarray, facts: Sequence[ImageFile]) -> list[ViewSheet]:
    """Draws of the views that the config's trainer uses, of training images that can be read, one of each class."""
    whole = np.array([not fact.problem for fact in facts]) & train
    rows: list[int] = []
    for attribute, names in frame.classes.items():
        values = frame.rows[attribute].to_numpy()
        for index in range(len(names)):
            rows += [int(row) for row in data_check.sample_rows(frame, whole & (values == index), 1)]
    rows = list(dict.fromkeys(rows))[:MOST_VIEWED]
    streams = getattr(KINDS["trainer"].find(config.trainer.type, config.where("trainer.type")), "streams")  # noqa: B009
    used: dict[str, str] = {"eval": "validation, test and prediction"}
    for stream, views in streams.items():
        used |= dict.fromkeys(views.values(), f"{stream} images")
    if not rows:
        return []
    files = [frame.file(str(frame.rows["path"].iloc[row])) for row in rows]
    images = open_images(files, ImageReader.of(config.views), "ram", Path())
    sheets: list[ViewSheet] = []
    for name, purpose in used.items():
        views = view_of(config, frame, name)
        of_rows = [views.of(row) for row in rows]
        draws = DRAWS if any(map(is_random, of_rows)) else 1
        seeds = sample_seeds(config.seed, len(sheets), positions=np.arange(draws))
        drawn = [[picture_of(view(images[n], int(seed))) for seed in seeds] for n, view in enumerate(of_rows)]
        sheets.append(ViewSheet(name, purpose, drawn))
    return sheets


def _sheets(frame: LabelFrame, check: dict[str, Any]) -> list[Sheet]:
    """Pictures of each class, of the unlabeled images, and of each combination where these are few."""
    sheets = []
    for attribute, names in frame.classes.items():
        values = frame.rows[attribute].to_numpy()
        for index, name in enumerate([*names, "unlabeled"]):
            held = values == (index if index < len(names) else -1)
            sheets.append(_sheet(frame, attribute, name, held, PER_CLASS))
    if check["joint"] and len(check["joint"]["classes"]) <= MOST_JOINT_SHEETS:
        title = " / ".join(frame.classes)
        labels = [
            np.array([*names, None], dtype=object)[frame.rows[attribute]] for attribute, names in frame.classes.items()
        ]
        joined = np.array(["/".join(map(str, row)) for row in zip(*labels)], dtype=object)
        sheets += [_sheet(frame, title, name, joined == name, PER_JOINT_CLASS) for name in check["joint"]["classes"]]
    return [sheet for sheet in sheets if sheet.count]


def _sheet(frame: LabelFrame, attribute: str, name: str, held: np.ndarray, most: int) -> Sheet:
    pictures = []
    for row in data_check.sample_rows(frame, held, most):
        path = str(frame.rows["path"].iloc[row])
        pictures.append(thumb(path, frame.file(path)))
    return Sheet(attribute, name, int(held.sum()), pictures)
