"""The mask competition's layout: a table of persons, and a folder of seven photos for each."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.age import AGE, BOUNDARIES, YEARS, age_index, age_names, check_boundaries
from data_loader.joint import GENDER, MASK, join_attributes, joint_label
from data_loader.label_frame import LabelFrame
from data_loader.readers.table import (
    existing_root,
    few,
    indices,
    locate,
    need_cells,
    need_columns,
    normalised,
    raw_columns,
    read_table,
    with_counts,
    without_repeats,
)
from utils.errors import UserError, did_you_mean

__all__ = ["STATES", "MaskFaces", "eval_files", "joint_label"]

IMAGES = "images"
EXTENSIONS = (".jpg", ".jpeg", ".png")
# File stem → mask class; in this order a person's photos are listed.
STATES = {**{f"mask{n}": "wear" for n in range(1, 6)}, "incorrect_mask": "incorrect", "normal": "normal"}
_OWN = ("path", "group", "split", "mask", "gender", "age", "years", "person", "id", "state", "joint")
_FOLDER = re.compile(r".+_(male|female)_[^_]+_(\d+)")


def MaskFaces(
    root: str, frame: str = "train.csv", age_boundaries: list[int] = BOUNDARIES, joint: bool = False
) -> LabelFrame:
    """Reads `root/train.csv` (columns path, gender, age) and `root/images/PATH/{mask1…5,incorrect_mask,normal}.*`.

    root: the competition's `train` folder or the folder above it. frame: the table, relative to the root or the working
    directory. age_boundaries: first ages of the second, third, … age class. joint: one attribute `joint` (mask * 6 +
    gender * 3 + age) in place of mask, gender and age, which stay as columns of class names. Raw columns: years, person
    (the folder), id (text), state (the file's stem), and what else the table has. A group is a person's folder; an id
    need not be unique and means nothing here.
    Raises UserError for persons without photos, a photo that is there twice, and genders or ages that are none.
    """
    check_boundaries(age_boundaries, "dataset.args.age_boundaries")
    folder = _train_folder(existing_root(root))
    file = locate(folder, frame, "frame")
    people, notes = _people(file)
    photos, photo_notes = _photos(folder / IMAGES, list(people["path"]), file)

    of_person = np.repeat(np.arange(len(people)), [len(found) for found in photos])
    states = pd.Series([state for found in photos for state in found])
    person = people["path"].to_numpy()[of_person]
    names = [name for found in photos for name in found.values()]
    people = people.iloc[of_person].reset_index(drop=True)
    ages = age_names(age_boundaries)
    rows = pd.DataFrame(
        {
            "path": [f"{IMAGES}/{who}/{name}" for who, name in zip(person, names)],
            "group": person,
            "mask": indices(states.map(STATES), MASK),
            "gender": indices(people["gender"], GENDER),
            AGE: age_index(people["age"], age_boundaries),
            YEARS: people["age"],
            "person": person,
            "id": people["id"],
            "state": states,
        }
    )
    raw = raw_columns(people.drop(columns=["path", "gender", "age", "id"]), _OWN)
    first = f"MaskFaces {folder}: {len(rows):,} images of {rows['group'].nunique():,} persons"
    classes = {"mask": MASK, "gender": GENDER, AGE: ages}
    result = LabelFrame(pd.concat([rows, raw], axis=1), classes, folder, (first, *notes, *photo_notes))
    result = with_counts(result, classes)
    return with_counts(join_attributes(result), ["joint"]) if joint else result


def eval_files(root: str | Path) -> tuple[Path, list[Path]]:
    """The competition's evaluation images: (info.csv, its images in its order, the only one that counts).

    root: the `eval` folder, the one above it, or the `train` folder beside it. Raises UserError if the table or an
    image is missing, or an ImageID blank.
    """
    folder = Path(root).expanduser()
    places = (folder, folder / "eval", folder.parent / "eval")
    info = next((place / "info.csv" for place in places if (place / "info.csv").is_file()), None)
    if info is None:
        raise UserError(f"no info.csv in {', '.join(map(str, places))}")
    table = read_table(info)
    need_columns(table, ["ImageID"], info)
    need_cells(table, "ImageID", info)
    images = info.parent / IMAGES
    there = set(os.listdir(images)) if images.is_dir() else set()
    absent = [name for name in table["ImageID"] if name not in there]
    if absent:
        raise UserError(f"{info}: {few(absent, 'image')} not found in {images}")
    return info, [images / name for name in table["ImageID"]]


def _train_folder(root: Path) -> Path:
    found = [place for place in (root, root / "train") if (place / IMAGES).is_dir()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"dataset.args.root: '{found[0]}' and '{found[1]}' both have a folder {IMAGES}; name one")
    places = (images.parent for images in sorted(root.glob(f"*/*/{IMAGES}")))
    inner = next((f"; did you mean '{place}'?" for place in places if (place / "train.csv").is_file()), "")
    raise UserError(f"dataset.args.root: no folder {IMAGES} in '{root}' or '{root / 'train'}'{inner}")


def _people(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table with path, gender ('' = unlabeled), age (years, NaN = unlabeled), id and its other columns."""
    table = read_table(file)
    need_columns(table, ["path", "gender", "age"], file)
    table["gender"] = table["gender"].str.lower()
    table["age"] = normalised(table["age"])
    table, notes = without_repeats(table, "path", ["gender", "age"], file)
    for label, count in table["gender"].value_counts().items():
        if label not in (*GENDER, ""):
            raise UserError(f"{file}: gender '{label}' ({count:,} rows){did_you_mean(str(label), GENDER)}")
    wrong = table[~table["age"].str.fullmatch(r"(\d{1,2}|1[0-4]\d)?")]
    if len(wrong):
        cells = [f"{age} of {path}" for age, path in zip(wrong["age"], wrong["path"])]
        raise UserError(f"{file}: {few(cells, 'age')} not in whole years")
    told = table["path"].str.extract(_FOLDER).set_axis(["gender", "age"], axis=1)
    differ = told["gender"].notna() & ((told["gender"] != table["gender"]) | (told["age"] != table["age"]))
    if differ.any():
        who = few(list(table["path"][differ]), "person")
        notes.append(f"{file.name}: {who} with another gender or age than the folder's name; the table counts")
    table["age"] = pd.to_numeric(table["age"])
    if "id" not in table.columns:
        table["id"] = table["path"].str.partition("_")[0]
    shared = list(table["id"][table["id"].duplicated()].unique())
    if shared:
        notes.append(f"{file.name}: {few(shared, 'id')} shared by several persons; a folder is a person, an id is not")
    return table, notes


def _photos(images: Path, people: list[str], file: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Per person {state: file name} in the order of STATES, and notes. Hidden files (AppleDouble `._…`) are none."""
    folders = {entry.name for entry in os.scandir(images) if entry.is_dir() and not entry.name.startswith(".")}
    absent = [path for path in people if path not in folders]
    if absent:
        raise UserError(f"{file}: {few(absent, 'person')} without a folder in {images}")
    photos, others, twice = [], [], []
    for person in people:
        found: dict[str, str] = {}
        for name in sorted(os.listdir(images / person)):
            stem, extension = os.path.splitext(name)
            state = stem.lower()
            if name.startswith("."):
                continue
            if state not in STATES or extension.lower() not in EXTENSIONS:
                others.append(f"{person}/{name}")
            elif found.setdefault(state, name) != name:
                twice.append(f"{person}/{name}")
        photos.append({state: found[state] for state in STATES if state in found})
    if twice:
        raise UserError(f"{images}: {few(twice, 'photo')} there twice with different extensions; remove one of each")
    empty = [person for person, found in zip(people, photos) if not found]
    if empty:
        raise UserError(f"{images}: {few(empty, 'person')} without any of the photos {', '.join(STATES)}")
    notes = []
    if others:
        notes.append(f"{IMAGES}: {few(others, 'file')} not used; expected the names {', '.join(STATES)}")
    missing = [f"{p}/{state}" for p, found in zip(people, photos) for state in STATES if state not in found]
    if missing:
        notes.append(f"{IMAGES}: {few(missing, 'photo')} missing")
    rowless = sorted(folders - set(people))
    if rowless:
        notes.append(f"{IMAGES}: {few(rowless, 'folder')} without a row in {file.name}, not used")
    return photos, notes
