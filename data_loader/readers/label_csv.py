"""Any images with their labels in a CSV."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from data_loader.label_frame import LabelFrame
from data_loader.readers.table import (
    LEFT_OUT,
    class_names,
    existing_root,
    few,
    indices,
    locate,
    need_columns,
    normalised,
    raw_columns,
    read_table,
    with_counts,
    without_repeats,
)
from utils.errors import UserError, did_you_mean

OWN = ("path", "group", "split")  # columns with a meaning of their own


def LabelCSV(
    root: str,
    frame: str,
    attributes: list[str],
    path: str = "path",
    group: str | None = None,
    split: str | None = None,
    classes: dict[str, list[str]] | None = None,
) -> LabelFrame:
    """Reads images and labels from the CSV `frame` (relative to `root` or the working directory).

    path: the column with the image files, relative to `root`. attributes: the label columns; an empty cell is
    unlabeled, '-1' in any of them leaves the row out. group: the column of who may not be split (blank = the image
    itself). split: a column of train/valid/test to be used instead of a drawn split. classes: class names in order, per
    attribute; otherwise sorted, by number if all are numbers.
    Raises UserError for columns, files and labels that are not there or do not fit.
    """
    folder = existing_root(root)
    file = locate(folder, frame, "frame")
    classes = classes or {}
    _check_names(attributes, classes)
    table = read_table(file)
    need_columns(table, [path, *attributes, *(name for name in (group, split) if name)], file)

    table[path] = _relative(table[path], file)
    for attribute in attributes:
        table[attribute] = normalised(table[attribute])
    about = [*attributes, *(name for name in (group, split) if name)]
    table, notes = without_repeats(table, path, about, file)
    absent = [name for name in table[path] if not (folder / name).is_file()]
    if absent:
        raise UserError(f"{file}: {few(absent, 'file')} in column '{path}' not found in {folder}")
    left_out = (table[attributes] == LEFT_OUT).any(axis=1)
    if left_out.any():
        notes.append(f"{file.name}: {int(left_out.sum()):,} rows left out (label {LEFT_OUT})")
        table = table[~left_out].reset_index(drop=True)

    rows = pd.DataFrame({"path": table[path], "group": table[path]})
    if group:
        people = normalised(table[group])
        rows["group"] = people.where(people != "", table[path])
        blank = int((people == "").sum())
        alone = f"; {blank:,} cells are blank, and each of these images is for itself" if blank else ""
        notes.append(f"group: column '{group}', {rows['group'].nunique():,} groups{alone}")
        notes += _nearly_same_groups(people[people != ""], group)
    names: dict[str, tuple[str, ...]] = {}
    for attribute in attributes:
        names[attribute] = _classes_of(table[attribute], classes.get(attribute), f"{file}: column '{attribute}'")
        rows[attribute] = indices(table[attribute], names[attribute])
        notes += [f"warning: column '{attribute}': {text}" for text in _nearly_same(names[attribute])]
    if split:
        rows["split"] = table[split].where(table[split] != "", np.nan)
    used = {path, *attributes, *({group, split} & {"group", "split"})}
    table = table.drop(columns=[name for name in table.columns if name in used])
    notes += [
        f"column '{name}' is not used as {name}; it is kept as raw_{name}" for name in OWN if name in table.columns
    ]
    raw = raw_columns(table, OWN)
    result = LabelFrame(
        pd.concat([rows, raw], axis=1), names, folder, (f"LabelCSV {file}: {len(rows):,} images", *notes)
    )
    return with_counts(result, attributes)


def _check_names(attributes: list[str], classes: dict[str, list[str]]) -> None:
    key = "dataset.args.attributes"
    if not attributes:
        raise UserError(f"{key}: name at least one label column")
    if len(set(attributes)) != len(attributes) or set(OWN) & set(attributes):
        raise UserError(f"{key}: names must differ, also from {', '.join(OWN)}; got {', '.join(attributes)}")
    for name, given in classes.items():
        if name not in attributes:
            raise UserError(f"dataset.args.classes: no attribute '{name}'{did_you_mean(name, attributes)}")
        if len(set(given)) != len(given) or not given:
            raise UserError(f"dataset.args.classes.{name}: expected distinct class names, got {given}")


def _relative(cells: pd.Series, file: Path) -> pd.Series:
    """Paths with '/' and without './'. Raises UserError if one is blank, absolute or leaves the root."""
    paths = cells.map(lambda cell: str(PurePosixPath(cell.replace("\\", "/"))))
    outside = paths.str.match(r"\.$|/|\w:|(.*/)?\.\.(/|$)")
    if outside.any():
        raise UserError(f"{file}: {few(list(cells[outside]), 'path')} blank, absolute or outside the data set's root")
    return paths


def _nearly_same_groups(people: pd.Series, column: str) -> list[str]:
    """About groups that only capital letters and blanks tell apart: their images may come on two sides of the split."""
    names = people.drop_duplicates()
    alike = names.str.casefold().str.split().str.join(" ")
    twins = names[alike.duplicated(keep=False).to_numpy()]
    if not len(twins):
        return []
    first = " and ".join(f"'{name}'" for name in twins[alike[twins.index] == alike[twins.index[0]]][:2])
    return [
        f"warning: column '{column}': {len(twins):,} groups differ from another in capital letters or blanks only "
        f"(such as {first}); if they are the same, scores are too good: write them alike"
    ]


def _nearly_same(names: tuple[str, ...]) -> list[str]:
    """About classes that only capital letters tell apart."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    twins = (" and ".join(f"'{name}'" for name in same) for same in groups.values() if len(same) > 1)
    return [f"the classes {text} differ in capital letters only; labels.merge makes one of them" for text in twins]


def _classes_of(labels: pd.Series, given: list[str] | None, where: str) -> tuple[str, ...]:
    counts = labels[labels != ""].value_counts()
    if not len(counts) and given is None:
        raise UserError(f"{where}: no row has a label; if that is meant, name the classes in dataset.args.classes")
    if given is None:
        return class_names(counts.index)
    unknown = [f"'{label}' ({count:,} rows)" for label, count in counts.items() if label not in given]
    if unknown:
        raise UserError(f"{where}: {', '.join(unknown[:5])} not among the classes given: {', '.join(given)}")
    return tuple(given)
