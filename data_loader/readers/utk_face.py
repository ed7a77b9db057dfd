"""UTKFace: the labels are in the file names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.age import AGE, BOUNDARIES, YEARS, age_index, age_names, check_boundaries
from data_loader.joint import GENDER, join_attributes
from data_loader.label_frame import LabelFrame
from data_loader.readers.image_folder import images_below
from data_loader.readers.table import existing_root, few, need_columns, read_table, with_counts, without_repeats
from utils.errors import UserError

TABLE = "labels.csv"
RACES = ("white", "black", "asian", "indian", "other")
# The dot before 'jpg' is missing, or a blank too many, in a few of the original's names.
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\s*\.?jpe?g(\.chip\.jpg)?", re.IGNORECASE)


def UTKFace(
    root: str, age_boundaries: list[int] = BOUNDARIES, group: str | None = "group", joint: bool = False
) -> LabelFrame:
    """Reads `age_gender_race_date.jpg` and `….jpg.chip.jpg` in `root` and its folders: attributes gender and age.

    age_boundaries: first ages of the second, third, … age class. group: the column of `root/labels.csv` (with a column
    path) that says which images may not be split; null, or no such table: every image is its own group. joint: one
    attribute `joint` (gender * number of age classes + age) in place of gender and age, which stay as columns of class
    names. Raw columns: years and race. Names that are not of this form are skipped.
    Raises UserError if no name is, and for a table without these columns.
    """
    check_boundaries(age_boundaries, "dataset.args.age_boundaries")
    folder = existing_root(root)
    paths = images_below(folder)
    found = {path: match for path in paths if (match := _NAME.fullmatch(path.rpartition("/")[2]))}
    broken = [path for path in paths if path not in found]
    if not found:
        seen = f"such as {broken[0]}" if broken else "there are no images"
        raise UserError(f"dataset.args.root: no image in '{folder}' is named age_gender_race_date.jpg ({seen})")
    years = np.array([int(match[1]) for match in found.values()], dtype=np.int64)
    rows = pd.DataFrame({"path": list(found)})
    rows["group"], notes = _groups(folder, list(found), group)
    rows["gender"] = np.array([int(match[2]) for match in found.values()], dtype=np.int64)
    rows[AGE] = age_index(years, age_boundaries)
    rows[YEARS] = years
    rows["race"] = [RACES[int(match[3])] for match in found.values()]
    if broken:
        notes.append(f"{few(broken, 'image')} skipped: the name is not age_gender_race_date.jpg")
    classes = {"gender": GENDER, AGE: age_names(age_boundaries)}
    result = LabelFrame(rows, classes, folder, (f"UTKFace {folder}: {len(rows):,} images", *notes))
    result = with_counts(result, classes)
    return with_counts(join_attributes(result), ["joint"]) if joint else result


def _groups(folder: Path, paths: list[str], column: str | None) -> tuple[list[str], list[str]]:
    """Who may not be split, per path, and notes."""
    file = folder / TABLE
    if column is None or not file.is_file():
        why = "group is null" if column is None else f"there is no {TABLE}"
        return paths, [f"group: every image for itself ({why}), so that near-duplicates may be on two sides of a split"]
    table = read_table(file)
    need_columns(table, ["path", column], file)
    table, notes = without_repeats(table, "path", [column], file)
    known = {path: cell for path, cell in zip(table["path"], table[column]) if cell}
    if not known.keys() & set(paths):
        raise UserError(f"{file}: no row is about an image of {folder} (such as {table['path'][0]} for {paths[0]})")
    groups = [known.get(path, path) for path in paths]
    notes.append(f"group: column '{column}' of {TABLE}, {len(set(groups)):,} groups")
    rowless = [path for path in paths if path not in known]
    if rowless:
        notes.append(f"{TABLE}: {few(rowless, 'image')} without a group, each for itself")
    return groups, notes
