"""Age in years and in classes, and what is done to the ages of training rows only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from data_loader.joint import on_parts
from data_loader.label_frame import LabelFrame
from utils.errors import UserError

AGE = "age"
YEARS = "years"
BOUNDARIES = [30, 60]


def check_boundaries(boundaries: Sequence[int], key: str) -> None:
    """Raises UserError unless they are one or more rising ages."""
    if not boundaries or list(boundaries) != sorted(set(boundaries)) or boundaries[0] < 1:
        raise UserError(f"{key}: expected rising ages such as {BOUNDARIES}, got {list(boundaries)}")


def age_names(boundaries: Sequence[int]) -> tuple[str, ...]:
    """[30, 60] → `<30`, `30-59`, `>=60`: each boundary is the first age of the next class."""
    between = [f"{low}-{high - 1}" for low, high in pairwise(boundaries)]
    return (f"<{boundaries[0]}", *between, f">={boundaries[-1]}")


def boundaries_of(names: Sequence[str]) -> list[int] | None:
    """The boundaries that class names tell, the inverse of `age_names`; None if they are not such names."""
    found = [re.fullmatch(r">=(\d+)|(\d+)-\d+", name) for name in names[1:]]
    boundaries = [int(match[1] or match[2]) for match in found if match]
    return boundaries if boundaries and age_names(boundaries) == tuple(names) else None


def age_index(years: np.ndarray | pd.Series, boundaries: Sequence[int]) -> np.ndarray:
    """[N] int64 class of ages in years; -1 where the age is not known (NaN)."""
    values = np.asarray(years, dtype=np.float64)
    index = np.searchsorted(np.asarray(boundaries), values, side="right")
    return np.where(np.isnan(values), -1, index).astype(np.int64)


def shift_age_boundary(frame: LabelFrame, split: pd.Series, boundaries: Sequence[int]) -> LabelFrame:
    """Class the ages of training rows by other boundaries: [30, 58] makes 58 and 59 `>=60` for training.

    The class names and every other row stay as they are. So do rows without a label and those whose label was corrected
    to a class that their years do not fit. split: [N] train/valid/test.
    Raises UserError without ages in years, or if the boundaries do not fit the number of classes.
    """
    check_boundaries(boundaries, "labels.train.age_boundaries")

    def change(frame: LabelFrame) -> LabelFrame:
        names = _names(frame)
        if len(boundaries) != len(names) - 1:
            raise UserError(
                f"labels.train.age_boundaries: {len(boundaries)} boundaries make {len(boundaries) + 1} classes, "
                f"but age has {', '.join(names)}"
            )
        if boundaries_of(names) is None:
            raise UserError(
                f"labels.train.age_boundaries: the classes of age must be named by their years and in their order, "
                f"such as {', '.join(age_names(boundaries))}; they are {', '.join(names)}"
            )
        before, shifted = frame.rows[AGE].to_numpy(), age_index(frame.rows[YEARS], boundaries)
        rows = (split == "train").to_numpy() & (before >= 0) & (shifted >= 0)
        return _changed(frame, split, np.where(rows, shifted, before), f"age boundaries {list(boundaries)}")

    return on_parts(frame, change)


def drop_near_boundary(frame: LabelFrame, split: pd.Series, ranges: Sequence[Sequence[int]]) -> LabelFrame:
    """Hide the age label (-1) of training rows whose years lie in one of the inclusive ranges, e.g. [57, 59].

    Their other labels stay; a joint label is hidden as a whole. No other row is touched. split: [N] train/valid/test.
    Raises UserError without ages in years, for a range that ends before it starts, and if a class loses all its rows.
    """
    for low, high in ranges:
        if low > high:
            raise UserError(f"labels.train.drop_ages: the range [{low}, {high}] ends before it starts")

    def change(frame: LabelFrame) -> LabelFrame:
        _names(frame)
        near = np.logical_or.reduce([frame.rows[YEARS].between(low, high).to_numpy() for low, high in ranges])
        rows = near & (split == "train").to_numpy()
        text = f"without the ages {', '.join(f'{low}-{high}' for low, high in ranges)}"
        return _changed(frame, split, np.where(rows, -1, frame.rows[AGE].to_numpy()), text)

    return on_parts(frame, change) if ranges else frame


def _names(frame: LabelFrame) -> tuple[str, ...]:
    if AGE not in frame.classes or YEARS not in frame.rows.columns:
        raise UserError(
            f"labels.train: the data has no attribute '{AGE}' with ages in a column '{YEARS}'; "
            f"attributes are {', '.join(frame.classes)}"
        )
    return frame.classes[AGE]


def _changed(frame: LabelFrame, split: pd.Series, after: np.ndarray, text: str) -> LabelFrame:
    """The frame with the age labels `after`, and what that did."""
    names = np.array([*frame.classes[AGE], "unlabeled"], dtype=object)
    before = frame.rows[AGE].to_numpy()
    train = (split == "train").to_numpy()
    emptied = [
        name for i, name in enumerate(names[:-1]) if (before[train] == i).any() and not (after[train] == i).any()
    ]
    if emptied:
        raise UserError(f"labels.train: {text}: no training row is left in {', '.join(emptied)}")
    moves = pd.Series(zip(names[before], names[after]))[before != after].value_counts(sort=False)
    listed = ", ".join(f"{old} → {new} ({count:,})" for (old, new), count in sorted(moves.items()))
    note = f"train rows only: {text}: {moves.sum():,} of {train.sum():,} age labels changed{': ' if listed else ''}"
    return frame.with_rows(frame.rows.assign(**{AGE: after})).note(note + listed)
