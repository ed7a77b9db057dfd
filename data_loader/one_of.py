"""Images that stand for one another, of which one is shown in each pass: one of a person's five photos with a mask."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_loader.label_frame import LabelFrame, rows_with
from utils.random_state import sample_seeds

_PURPOSE = 11


class OneOf:
    """One row of each unit in a pass over the data, drawn anew in every pass.

    rows: int64 [n], distinct rows of the label frame. units: int64 [n]; rows of one unit stand for one another.
    """

    def __init__(self, rows: np.ndarray, units: np.ndarray):
        order = np.lexsort((rows, units))
        self._members = rows[order]
        _, self._start, self._count = np.unique(units[order], return_index=True, return_counts=True)
        self.first = self._members[self._start]
        """[units] int64, the row by which a unit is named."""
        self._unit_of = np.zeros(rows.max(initial=-1) + 1, dtype=np.int64)
        self._unit_of[self.first] = np.arange(len(self.first))

    def members(self, first: np.ndarray) -> np.ndarray:
        """int64, every row that a pass may show of the units named `first`."""
        unit = np.repeat(np.arange(len(self._start)), self._count)
        return self._members[np.isin(unit, self._unit_of[first])]

    def pick(self, first: np.ndarray, seed: int, stream: int, number: int) -> np.ndarray:
        """[k] int64, the rows that pass `number` shows of the units named `first`: a function of the arguments."""
        unit = self._unit_of[first]
        drawn = sample_seeds(seed, _PURPOSE, stream, number, positions=first).astype(np.int64)
        return self._members[self._start[unit] + drawn % self._count[unit]]


def units_of(frame: LabelFrame, rule: Mapping[str, str], where: str) -> np.ndarray:
    """[N] int64: rows of one unit are of one group and have the same labels and the value that the rule names.

    rule: {column: value}; a class name of an attribute, or the text of a raw column. Rows without any label, and those
    that the rule does not name, are units of their own. Raises UserError for an unknown column or value.
    """
    rows = frame.rows
    choice = np.full(len(frame), -1, dtype=np.int64)
    for number, (column, value) in enumerate(rule.items()):
        choice[rows_with(frame, column, value, where) & frame.labeled.to_numpy() & (choice < 0)] = number
    keys = np.stack(
        [
            choice,
            np.where(choice < 0, np.arange(len(frame)), rows["group"].factorize()[0]),
            *(np.where(choice < 0, 0, rows[name]) for name in frame.classes),
        ],
        axis=1,
    )
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
