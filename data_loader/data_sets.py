"""Several data sets as one label frame: nothing clashes, and a label that a data set does not know is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.label_frame import DATA_SET, LabelFrame
from utils.errors import UserError, did_you_mean

_RESERVED = ("path", "group", "split", DATA_SET)


def choose_attributes(frame: LabelFrame, wanted: Sequence[str] | Mapping[str, str], where: str) -> LabelFrame:
    """Only these attributes, in this order; a mapping says what each is called from now on.

    The others become raw columns of class names (None: not labeled). Raises UserError, beginning with `where`, for an
    attribute that there is not and for names that clash.
    """
    called = dict(wanted) if isinstance(wanted, Mapping) else {name: name for name in wanted}
    for name in called:
        if name not in frame.classes:
            raise UserError(f"{where}: no attribute '{name}'{did_you_mean(name, frame.classes)}")
    twice = [name for name in called.values() if list(called.values()).count(name) > 1 or name in _RESERVED]
    if twice or len(set(wanted)) != len(wanted):
        raise UserError(f"{where}: '{(twice or list(wanted))[0]}' cannot name an attribute here, or names two")
    others = [name for name in frame.classes if name not in called]
    raw = {name: np.array([*frame.classes[name], None], dtype=object)[frame.rows[name]] for name in others}
    heads = {new: frame.rows[old] for old, new in called.items()}
    rest = _renamed(frame.rows.assign(**raw).drop(columns=["path", "group", *called]), heads)
    classes = {new: frame.classes[old] for old, new in called.items()}
    unused = {**frame.unused, **{name: frame.classes[name] for name in others}}
    rows = frame.rows[["path", "group"]].assign(**heads).join(rest)
    chosen = replace(frame, rows=rows, classes=classes, unused=unused)
    names = [new if old == new else f"{new} ({old})" for old, new in called.items()]
    return chosen.note(f"attributes in use: {', '.join(names)}")


def add_attributes(frame: LabelFrame, classes: Mapping[str, tuple[str, ...]]) -> LabelFrame:
    """The frame with those of `classes` that it does not know, missing in every row."""
    new = {name: names for name, names in classes.items() if name not in frame.classes}
    if not new:
        return frame
    rows = frame.rows[["path", "group", *frame.classes]].assign(**dict.fromkeys(new, np.int64(-1)))
    raw = frame.rows.drop(columns=["path", "group", *frame.classes])
    return replace(frame, rows=rows.join(_renamed(raw, new)), classes={**frame.classes, **new})


def join_data_sets(frames: Mapping[str, LabelFrame], merged: Collection[str] = ()) -> LabelFrame:
    """One frame of all rows. Paths and groups begin with the data set's name, the column `dataset` holds it, and a row
    has −1 for the attributes that its data set does not know.

    An attribute that two data sets know must have the same class names in both, unless it is in `merged`, whose classes
    are made one afterwards. Their order is that of the first data set. A raw column that is called like an attribute of
    another data set is renamed `raw_NAME`. Raises UserError if class names differ.
    """
    classes = _all_names(frame.classes for frame in frames.values())
    for attribute in classes:
        if attribute not in merged:
            _check_same_classes(attribute, frames)
    tables = [_as_part(name, frame, classes) for name, frame in frames.items()]
    roots = {name: frame.root for name, frame in frames.items()}
    history = tuple(f"{name}: {line}" for name, frame in frames.items() for line in frame.history)
    rows = pd.concat(tables, ignore_index=True)
    return LabelFrame(rows, classes, Path(), history, roots, _all_names(frame.unused for frame in frames.values()))


def _all_names(parts: Iterable[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """The class names of each attribute in all data sets, in the order in which they come."""
    classes: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for attribute, names in part.items():
            classes[attribute] = tuple(dict.fromkeys([*classes.get(attribute, ()), *names]))
    return classes


def _check_same_classes(attribute: str, frames: Mapping[str, LabelFrame]) -> None:
    having = [(name, frame.classes[attribute]) for name, frame in frames.items() if attribute in frame.classes]
    first, names = having[0]
    for other, others in having[1:]:
        if set(others) != set(names):
            raise UserError(
                f"dataset: '{attribute}' has the classes {', '.join(names)} in the data set '{first}' and "
                f"{', '.join(others)} in '{other}'; say with labels.merge.{attribute} which of them are the same, or "
                f"call or leave out one of the two with the key 'attributes' of its data set"
            )


def _as_part(name: str, frame: LabelFrame, classes: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """The rows of one data set with the columns of all."""
    rows = frame.rows
    part = pd.DataFrame({"path": name + "/" + rows["path"], "group": name + "/" + rows["group"]})
    for attribute, names in classes.items():
        known = np.array([names.index(label) for label in frame.classes.get(attribute, ())] + [-1], dtype=np.int64)
        part[attribute] = known[rows[attribute]] if attribute in frame.classes else np.int64(-1)
    part[DATA_SET] = name
    raw = rows.drop(columns=["path", "group", *frame.classes])
    return part.join(_renamed(raw, [*classes, DATA_SET]))


def _renamed(raw: pd.DataFrame, taken: Collection[str]) -> pd.DataFrame:
    """Raw columns whose names are not `taken`."""
    names: dict[str, str] = {}
    for name in raw.columns:
        new = name
        while new in taken or (new != name and new in raw.columns):
            new = f"raw_{new}"
        names[name] = new
    return raw.rename(columns=names)


def label_table(frame: LabelFrame, split: pd.Series) -> list[str]:
    """How many images of each data set have a label in use for each head and how many have none, as lines of a table.

    Nothing where there is one data set whose rows have all labels or none.
    """
    heads = list(frame.classes)
    known = frame.rows[heads] >= 0
    partly = (known.any(axis=1) & ~known.all(axis=1)).any()
    if not frame.roots and not partly:
        return []
    names = frame.rows[DATA_SET] if frame.roots else pd.Series("all", index=frame.rows.index)
    table = [["split", "data set", "images", *heads]]
    for side in ("train", "valid", "test"):
        for name in dict.fromkeys(names):
            rows = known[(split == side).to_numpy() & (names == name).to_numpy()]
            counts = rows.sum()
            cells = [f"{counts[head]:,} / {len(rows) - counts[head]:,}" for head in heads]
            if len(rows):
                table.append([side, name, f"{len(rows):,}", *cells])
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "  ".join(cell.rjust(w) if i > 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in table
    ]
    return ["images with / without a label in use:", *(f"  {line}" for line in lines)]


def check_names(frame: LabelFrame, named: Iterable[str], where: str) -> None:
    """Raises UserError, beginning with `where`, if one of `named` is not a data set of the frame."""
    for name in named:
        if name not in frame.roots:
            advice = did_you_mean(name, frame.roots) if frame.roots else "; there is one data set, without a name"
            raise UserError(f"{where}: no data set '{name}'{advice}")
