"""One folder of images per class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.label_frame import LabelFrame
from data_loader.readers.table import existing_root, few
from utils.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LABELED, UNLABELED = "labeled", "unlabeled"
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def ImageFolder(root: str, attribute: str = "label") -> LabelFrame:
    """Reads `root/CLASS/…/*.jpg` (.png, .webp, …); the classes are the folders' names, sorted. They may lie in a folder
    `labeled`, if there is nothing beside it but `unlabeled`.

    attribute: what the classes are called. A folder `unlabeled` holds unlabeled images, and may be the only one. Every
    image is its own group.
    Raises UserError for fewer than two classes, a class without images, and folders that look like train/valid/test.
    """
    if attribute in ("", "path", "group", "split"):
        raise UserError(f"dataset.args.attribute: '{attribute}' cannot name an attribute")
    folder = existing_root(root)
    entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    names = tuple(name for name in entries if name != UNLABELED)
    if names == (LABELED,):
        inside = [entry for entry in os.scandir(folder / LABELED) if not entry.name.startswith(".")]
        names = tuple(sorted(f"{LABELED}/{entry.name}" for entry in inside if entry.is_dir()))
        entries = [*(names or (LABELED,)), *(name for name in entries if name == UNLABELED)]
    if names and {name.rpartition("/")[2].lower() for name in names} <= _SPLITS:
        raise UserError(f"dataset.args.root: the folders of '{folder}' are splits, not classes: {', '.join(names)}")
    if len(names) < 2 and entries != [UNLABELED]:
        found = f"found {', '.join(names)}" if names else "found none"
        raise UserError(f"dataset.args.root: expected a folder for each of two or more classes in '{folder}', {found}")
    paths = {name: images_below(folder / name) for name in entries}
    empty = [name for name in names if not paths[name]]
    if empty:
        raise UserError(f"{folder}: {few(empty, 'class folder')} without an image")
    rows = pd.DataFrame({"path": [f"{name}/{path}" for name in entries for path in paths[name]]})
    rows["group"] = rows["path"]
    labels = [names.index(name) if name in names else -1 for name in entries for _ in paths[name]]
    rows[attribute] = np.array(labels, dtype=np.int64)
    classes = tuple(name.rpartition("/")[2] for name in names)
    result = LabelFrame(rows, {attribute: classes}, folder, (f"ImageFolder {folder}: {len(rows):,} images",))
    places = dict.fromkeys([folder, *((folder / name).parent for name in names)])
    loose = [entry.name for place in places for entry in os.scandir(place) if is_image(entry.name)]
    if loose:
        result = result.note(f"{few(sorted(loose), 'image')} outside of the class folders, not used")
    others = [path for name in entries for path in files_below(folder / name) if not is_image(path)]
    if others:
        result = result.note(f"{few(others, 'file')} with another ending than {', '.join(EXTENSIONS)}, not used")
    return result.note(result.describe(attribute))


def is_image(name: str) -> bool:
    """By its extension; hidden files (AppleDouble `._…`) are none."""
    return name.lower().endswith(EXTENSIONS) and not name.rpartition("/")[2].startswith(".")


def images_below(folder: Path) -> list[str]:
    """Paths of all images in `folder` and its folders, relative to it, '/' separated, sorted."""
    return [path for path in files_below(folder) if is_image(path)]


def files_below(folder: Path) -> list[str]:
    """As `images_below`, of all files that are not hidden."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(place).relative_to(folder)
        found += [(inner / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)
