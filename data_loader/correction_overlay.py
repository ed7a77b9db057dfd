"""Corrections laid over the label frame of one reader: what each row means there, and the corrected frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from data_loader.age import AGE, YEARS, age_index, boundaries_of
from data_loader.correction_rows import ALREADY, APPLIED, Conflict, Correction, Unmatched, Verdict
from data_loader.joint import join_attributes, split_joint
from data_loader.label_frame import LabelFrame
from data_loader.readers.mask_faces import IMAGES, STATES
from utils.errors import did_you_mean
from utils.joint import JOINT

DROP = "drop"
UNSURE = ("unsure", "?")
UNCHECKED = ("", "?", "-")  # `from` says nothing
SWAP = ("swap", "swap files")
WHOLE = ("person", "image")  # the field of a correction that is about no attribute
_FIXED = ("path", "group", "split", "person", "id", "state")


@dataclass(frozen=True)
class Edit:
    """`column` of the image in `row` becomes `value`: a class index, -1, a number, a text, or `drop`."""

    row: int
    column: str
    value: Any


@dataclass(frozen=True)
class Tally:
    """Images that the corrections change, make unlabeled and leave out."""

    changed: int = 0
    unsure: int = 0
    dropped: int = 0


class Overlay:
    """Corrections of one frame, a joint label taken apart while they are made."""

    def __init__(self, frame: LabelFrame):
        self.joined = JOINT in frame.classes
        self.frame = split_joint(frame) if self.joined else frame
        self.rows = self.frame.rows
        self.images = {path: np.array([row]) for row, path in enumerate(self.rows["path"])}
        self.people, self.ids = (self._rows_by(name) for name in ("person", "id"))
        self.planned: dict[tuple[int, str], tuple[Any, Correction]] = {}
        self.dropped: dict[int, Correction] = {}
        self.relabeled: list[tuple[Correction, set[int]]] = []

    def _rows_by(self, column: str) -> dict[str, np.ndarray]:
        if column not in self.rows:
            return {}
        groups = self.rows.groupby(self.rows[column], sort=False).indices
        return {str(name): np.asarray(rows) for name, rows in groups.items()}

    def plan(self, correction: Correction, path: str) -> Verdict:
        """Note what a correction changes; path: its path as the frame writes it. Raises Unmatched or Conflict."""
        edits = list(self._edits(correction, *self._match(correction, path)))
        for edit in edits:
            value, other = self.planned.get((edit.row, edit.column), (edit.value, correction))
            if not _same(value, edit.value):
                raise Conflict(f"contradicts {other}")
        rows = {edit.row for edit in edits}
        changed = {edit.row for edit in edits if self._differs(edit)}
        if edits and edits[0].value == DROP:
            self._drop(correction, rows)
        elif changed:
            if rows <= self.dropped.keys():
                raise Conflict(f"contradicts {self.dropped[min(rows)]}")
            self.relabeled.append((correction, rows))
        self.planned |= {(edit.row, edit.column): (edit.value, correction) for edit in edits}
        if not changed:
            return Verdict(correction, ALREADY, len(rows))
        return Verdict(correction, APPLIED, len(changed))

    def _drop(self, correction: Correction, rows: set[int]) -> None:
        """Raises Conflict if no image is left of those that another row gives a label."""
        dropped = self.dropped.keys() | rows
        for other, images in self.relabeled:
            if not images.isdisjoint(rows) and images <= dropped:
                raise Conflict(f"contradicts {other}")
        self.dropped |= dict.fromkeys(rows, correction)

    def _differs(self, edit: Edit) -> bool:
        return edit.value == DROP or not _same(self.rows[edit.column].iat[edit.row], edit.value)

    # Which images a correction is about ------------------------------------------------------------------------------

    def _match(self, correction: Correction, path: str) -> tuple[np.ndarray, bool]:
        """The images meant, and whether they are a person's."""
        if not correction.path and not correction.id:
            raise Unmatched("neither path nor id is given")
        rows, of_person = self._of_path(path) if correction.path else (np.arange(len(self.rows)), True)
        if not correction.id:
            return rows, of_person
        if correction.id not in self.ids:
            raise Unmatched(f"no image has this id{self._near(correction.id)}")
        rows = np.intersect1d(rows, self.ids[correction.id])
        groups = list(self.rows["group"].iloc[rows].unique())
        if not groups:
            raise Unmatched(f"path and id '{correction.id}' are not of one image")
        if len(groups) > 1:
            raise Unmatched(f"{len(groups)} persons share this id: {', '.join(groups[:5])}; name one by its path")
        return rows, of_person

    def _of_path(self, path: str) -> tuple[np.ndarray, bool]:
        inner = path.rstrip("/").removeprefix(f"{IMAGES}/")
        for known, of_person in ((self.images, False), (self.people, True)):
            for spelling in (path, f"{IMAGES}/{inner}", inner):
                if spelling in known:
                    return known[spelling], of_person
        person = self.people.get(inner.split("/")[0])
        near = "" if person is None else did_you_mean(path, self.rows["path"].iloc[person])
        raise Unmatched(f"no image or person has this path{near}")

    def _near(self, wanted: str) -> str:
        plain = [known for known in self.ids if known.split("-")[0].lstrip("0") == wanted.split("-")[0].lstrip("0")]
        return f"; ids are text, did you mean {' or '.join(plain[:3])}?" if plain else ""

    # What becomes of them --------------------------------------------------------------------------------------------

    def _edits(self, correction: Correction, rows: np.ndarray, of_person: bool) -> Iterator[Edit]:
        field, old, new = correction.field, correction.old, correction.new
        if not new:
            raise Conflict("'to' is blank; write unsure or drop where the label is not known")
        if field in WHOLE:
            if new.lower() != DROP:
                raise Conflict(f"the field {field} can only be dropped")
            return (Edit(row, DROP, DROP) for row in rows)
        if field == "mask" and "mask" in self.frame.classes and "state" in self.rows and of_person:
            return self._photos(rows, old, new)
        return self._to(rows, field, old, new)

    def _photos(self, rows: np.ndarray, old: str, new: str) -> Iterator[Edit]:
        """Mask labels of a person's photos, which their file names tell apart."""
        states = self.rows["state"].iloc[rows].to_numpy()
        pair = [name.strip() for name in old.replace("↔", "<->").split("<->")]
        if (new.lower() in SWAP) != (len(pair) == 2):
            raise Conflict("a swap needs 'a<->b' in from and 'swap' in to, such as incorrect_mask<->normal")
        pair = pair if len(pair) == 2 else [old, new]
        stems = [[state for state, label in STATES.items() if name in (state, label)] for name in pair]
        if new.lower() in SWAP or sorted(stems) == [["incorrect_mask"], ["normal"]]:
            for here, there in (stems, stems[::-1]):
                if len(here) != 1 or len(there) != 1 or here[0] not in states:
                    raise Unmatched(f"this person has no two photos {pair[0]} and {pair[1]}")
                yield from self._to(rows[states == here[0]], "mask", STATES[here[0]], STATES[there[0]])
            return
        if old in UNCHECKED and new.lower() not in (*UNSURE, DROP):
            raise Conflict("'from' must say which of the person's photos are meant")
        self._value("mask", new if old in UNCHECKED else old)
        chosen = rows if old in UNCHECKED else rows[np.isin(states, stems[0])]
        if not len(chosen):
            raise Unmatched(f"this person has no photo {old}")
        yield from self._to(chosen, "mask", old, new)

    def _to(self, rows: np.ndarray, field: str, old: str, new: str) -> Iterator[Edit]:
        """Edits that make `field` of all `rows` what `new` says. Raises Conflict if it is neither that nor `old`."""
        column, value = self._column(field, new), self._value(field, new)
        done = self.rows[column].iloc[rows].isin([value])
        if old not in UNCHECKED:
            before = self._column(field, old)
            now = self.rows[before].iloc[rows]
            other = ~(done | now.isin([self._value(field, old)]))
            if other.any():
                names = self.frame.classes.get(before)
                found = now[other].iloc[0]
                shown = found if names is None else [*names, "unlabeled"][found]
                raise Conflict(f"{before} is {shown}, not {old}")
        if column == YEARS and AGE in self.frame.classes and value != DROP:
            boundaries = boundaries_of(self.frame.classes[AGE])
            if boundaries is None:
                raise Conflict(
                    f"the names of the age classes, {', '.join(self.frame.classes[AGE])}, tell no boundaries"
                )
            index = int(age_index(np.array([value]), boundaries)[0])
            yield from (Edit(row, AGE, index) for row in rows)
        yield from (Edit(row, column, value) for row in rows)

    def _column(self, field: str, text: str) -> str:
        """The column that `field` is about: ages in years have their own. Raises Conflict if there is none."""
        raw = [name for name in self.rows.columns if name not in _FIXED]
        if field not in raw:
            raise Conflict(f"no field '{field}'{did_you_mean(field, [*raw, *WHOLE])}")
        in_years = field == AGE and YEARS in raw and text.isdecimal()
        return YEARS if in_years and text not in self.frame.classes.get(AGE, ()) else field

    def _value(self, field: str, text: str) -> Any:
        """What the column holds for this text. Raises Conflict for what it cannot hold."""
        column = self._column(field, text)
        names = self.frame.classes.get(column)
        if text.lower() == DROP:
            return DROP
        if text.lower() in UNSURE:
            return np.nan if names is None else -1
        if names is not None:
            label = STATES.get(text, text) if column == "mask" else text
            if label not in names:
                raise Conflict(f"{column} has no class '{text}'{did_you_mean(text, names)}")
            return names.index(label)
        if not pd.api.types.is_numeric_dtype(self.rows[column]):
            return text
        number = pd.to_numeric(text, errors="coerce")
        if np.isnan(number) or (column == YEARS and not (text.isdecimal() and number < 150)):
            raise Conflict(f"'{text}' is not {'an age in whole years' if column == YEARS else 'a number'}")
        return number

    # The corrected frame ---------------------------------------------------------------------------------------------

    def corrected(self) -> tuple[LabelFrame, Tally]:
        """Every planned edit made, years that contradict a corrected class unknown, dropped rows out."""
        by_column: dict[str, dict[int, Any]] = {}
        unsure: set[int] = set()
        changed: set[int] = set()
        for (row, column), (value, correction) in self.planned.items():
            if value == DROP or row in self.dropped:
                continue
            by_column.setdefault(column, {})[row] = value
            if self._differs(Edit(row, column, value)):
                (unsure if correction.new.lower() in UNSURE else changed).add(row)
        rows = self.rows.assign(**{name: _with(self.rows[name], edits) for name, edits in by_column.items()})
        boundaries = boundaries_of(self.frame.classes.get(AGE, ()))
        if boundaries is not None and YEARS in rows:
            told, classed = age_index(rows[YEARS], boundaries), by_column.get(AGE, {})
            wrong = {row: np.nan for row, index in classed.items() if index >= 0 and index != told[row]}
            rows[YEARS] = _with(rows[YEARS], wrong)
        frame = self.frame.with_rows(rows[~rows.index.isin(sorted(self.dropped))])
        tally = Tally(len(changed), len(unsure), len(self.dropped))
        return join_attributes(frame) if self.joined else frame, tally


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (pd.isna(a) and pd.isna(b))


def _with(cells: pd.Series, edits: dict[int, Any]) -> pd.Series:
    """The column with other values in some rows; whole numbers stay whole where none becomes unknown."""
    values = cells.to_numpy(dtype=object, copy=True)
    for row, value in edits.items():
        values[row] = value
    if not pd.api.types.is_numeric_dtype(cells):
        return pd.Series(values, index=cells.index, dtype=cells.dtype)
    numbers = pd.to_numeric(pd.Series(values, index=cells.index))
    return numbers.astype(cells.dtype) if numbers.notna().all() else numbers
