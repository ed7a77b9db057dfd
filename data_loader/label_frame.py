"""The label frame: one row per image, and the pure functions that turn one label frame into the next."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.row_filter import columns_of, evaluate
from utils.errors import UserError, did_you_mean
from utils.files import encoded

IGNORE = "ignore"  # the name in labels.merge whose rows are dropped
UNLABELED = "unlabeled"  # the name in labels.merge whose rows lose their label for the attribute
HIDDEN = "hidden/"  # prefix of the columns that keep labels which training must not see
DATA_SET = "dataset"  # the column that says, where there are several data sets, which one a row is from


@dataclass(frozen=True, eq=False)
class LabelFrame:
    """The images of a data set and what is known about them.

    rows: RangeIndex; `path` (str, unique, relative to `root`, '/' separated), `group` (str: who may not be split), one
        int64 column per attribute (index into its class names, -1 = not labeled), then the reader's raw columns.
    classes: ordered class names per attribute. history: what each step did, with counts, for the log. roots: of several
        data sets by name; paths and groups then begin with `NAME/`, and the column `dataset` holds it. unused: ordered
        class names of raw columns that the reader gave as attributes.
    Raises ValueError if the table breaks these rules.
    """

    rows: pd.DataFrame
    classes: dict[str, tuple[str, ...]]
    root: Path
    history: tuple[str, ...] = ()
    roots: Mapping[str, Path] = field(default_factory=dict)
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = list(self.rows.columns)
        absent = [name for name in ("path", "group", *self.classes) if name not in columns]
        if absent:
            raise ValueError(f"a label frame needs path, group and one column per attribute; missing: {absent}")
        if len(set(columns)) != len(columns) or {"path", "group"} & set(self.classes):
            raise ValueError(f"column names must differ: {columns}, attributes {list(self.classes)}")
        if not self.rows.index.equals(pd.RangeIndex(len(self.rows))):
            raise ValueError("the rows of a label frame are numbered 0, 1, 2, …")
        if not self.rows["path"].is_unique or self.rows[["path", "group"]].isna().to_numpy().any():
            raise ValueError("every row needs a path of its own and a group")
        for attribute, names in self.classes.items():
            values = self.rows[attribute]
            if values.dtype != np.int64 or len(set(names)) != len(names):
                raise ValueError(
                    f"{attribute}: needs int64 values and distinct class names, got {values.dtype}, {names}"
                )
            if len(values) and not values.between(-1, len(names) - 1).all():
                raise ValueError(f"{attribute}: values must lie in -1..{len(names) - 1}")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes, in the order of their heads."""
        return tuple(self.classes)

    @property
    def heads(self) -> dict[str, tuple[str, ...]]:
        """The attributes that make a head, and their classes: not those of whose values nothing is known."""
        return {attribute: names for attribute, names in self.classes.items() if names}

    @property
    def labeled(self) -> pd.Series:
        """[N] bool: the row has a label for at least one attribute."""
        return (self.rows[list(self.classes)] >= 0).any(axis=1)

    def file(self, path: str) -> Path:
        """Where the image `path` is."""
        if not self.roots:
            return self.root / path
        name, _, inner = path.partition("/")
        return self.roots[name] / inner

    @property
    def folders(self) -> dict[str, Path]:
        """Where the images of each data set are; one without a name is ''."""
        return {name: root.resolve() for name, root in (self.roots or {"": self.root}).items()}

    def knows(self, columns: Iterable[str], part: np.ndarray) -> bool:
        """Whether the rows `part` of a data set have values in all these columns."""
        cells = self.rows.iloc[part]
        return all((cells[c] >= 0).any() if c in self.classes else cells[c].notna().any() for c in columns)

    @property
    def data_sets(self) -> np.ndarray:
        """[N] int64: number of the data set that a row is from, in the order of `roots`; 0 where there is one."""
        if not self.roots:
            return np.zeros(len(self), dtype=np.int64)
        numbers = {name: number for number, name in enumerate(self.roots)}
        return self.rows[DATA_SET].map(numbers).to_numpy(np.int64)

    def parts(self) -> list[np.ndarray]:
        """The row numbers of each data set that has rows, int64."""
        numbers = self.data_sets
        return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

    def with_rows(self, rows: pd.DataFrame) -> LabelFrame:
        """The same frame with other rows (renumbered)."""
        return replace(self, rows=rows.reset_index(drop=True))

    def note(self, text: str) -> LabelFrame:
        """The same frame with one more line of history."""
        return replace(self, history=(*self.history, text))

    def counts(self, attribute: str) -> dict[str, int]:
        """Labeled rows per class, in class order; classes without a row count 0."""
        values = self.rows[attribute].to_numpy()
        names = self.classes[attribute]
        return dict(zip(names, np.bincount(values[values >= 0], minlength=len(names)).tolist()))

    def describe(self, attribute: str) -> str:
        """`forehead: shown (1,525), covered (879), unlabeled (5,528)`."""
        counts = self.counts(attribute)
        parts = [f"{name} ({count:,})" for name, count in counts.items()]
        return f"{attribute}: {', '.join([*parts, f'unlabeled ({len(self) - sum(counts.values()):,})'])}"


def rows_with(frame: LabelFrame, column: str, value: str, where: str) -> np.ndarray:
    """bool [N]: rows whose class, or whose text in a raw column, is `value`.

    Raises UserError, beginning with `where`, for an unknown column and for a value that no image has.
    """
    if column in frame.classes:
        cells = np.array([*frame.classes[column], None], dtype=object)[frame.rows[column]]
    else:
        known = [name for name in frame.rows.columns if name not in ("path", "group") and not name.startswith(HIDDEN)]
        if column not in known:
            raise UserError(f"{where}: no column '{column}'{did_you_mean(column, known)}")
        cells = np.array([None if cell is None else str(cell) for cell in frame.rows[column]], dtype=object)
    same = cells == value
    if not same.any():
        there = [text for text in dict.fromkeys(cells) if text is not None]
        raise UserError(f"{where}.{column}: no image has the value '{value}'{did_you_mean(value, there)}")
    return np.asarray(same, dtype=bool)


def merge_classes(frame: LabelFrame, merge: Mapping[str, Mapping[str, Sequence[str]]]) -> LabelFrame:
    """Give attributes new classes: `{"forehead": {"shown": ["0", "1"], "covered": ["2"]}}`.

    The new class order is the order of the mapping. Every label that a row has must be named once; the rows of the
    labels under the name `ignore` are dropped, those under `unlabeled` have no label any more. Unlabeled rows stay.
    Raises UserError for a label that no row has, a label that is named twice or not at all, an unknown attribute, fewer
    than two classes and one without a name.
    """
    for attribute, target in merge.items():
        if attribute not in frame.classes:
            raise UserError(f"labels.merge: no attribute '{attribute}'{did_you_mean(attribute, frame.classes)}")
        frame = _merge_one(frame, attribute, target)
    return frame


def _merge_one(frame: LabelFrame, attribute: str, target: Mapping[str, Sequence[str]]) -> LabelFrame:
    key = f"labels.merge.{attribute}"
    counts = {label: count for label, count in frame.counts(attribute).items() if count}
    owner: dict[str, str] = {}
    for name, labels in target.items():
        if not name.strip():
            raise UserError(f"{key}: a class needs a name; labels that mean nothing go under '{UNLABELED}'")
        meant = next((word for word in (IGNORE, UNLABELED) if name.strip().casefold() == word != name), None)
        if meant is not None:
            raise UserError(
                f"{key}.{name}: reads like '{meant}', which is no class; write it like that, or give the class another "
                "name"
            )
        if isinstance(labels, str) or not labels:
            raise UserError(f"{key}.{name}: expected a list of labels; labels are {', '.join(counts)}")
        for label in map(str, labels):
            if label not in counts:
                raise UserError(f"{key}.{name}: no row has the label '{label}'; labels are {', '.join(counts)}")
            if label in owner:
                raise UserError(f"{key}: the label '{label}' is in '{owner[label]}' and in '{name}'; name it once")
            owner[label] = name
    left = [f"'{label}' ({count:,} rows)" for label, count in counts.items() if label not in owner]
    if left:
        raise UserError(
            f"{key}: no class for {', '.join(left)}; add to a class, to '{UNLABELED}', or to '{IGNORE}' to drop these "
            "rows"
        )
    names = tuple(name for name in target if name not in (IGNORE, UNLABELED))
    if len(names) < 2:
        raise UserError(f"{key}: needs at least two classes, has {len(names)}")

    values = frame.rows[attribute].to_numpy()
    dropped = np.zeros(len(frame), dtype=bool)
    merged = np.full(len(frame), -1, dtype=np.int64)
    for label, name in owner.items():
        where = values == frame.classes[attribute].index(label)
        if name == IGNORE:
            dropped |= where
        elif name != UNLABELED:
            merged[where] = names.index(name)
    rows = frame.rows.assign(**{attribute: merged})[~dropped].reset_index(drop=True)
    parts = [f"{name} ← {', '.join(f'{x} ({counts[str(x)]:,})' for x in target[name])}" for name in target]
    result = replace(frame, rows=rows, classes={**frame.classes, attribute: names})
    result = result.note(f"merge {attribute}: {'; '.join(parts)}")
    others = [head for head in frame.classes if head != attribute]
    lost = {head: int((frame.rows[head][dropped] >= 0).sum()) for head in others}
    told = ", ".join(f"{count:,} labels of {head}" for head, count in lost.items() if count)
    advice = f"'{UNLABELED}' in place of '{IGNORE}' keeps the images"
    return result.note(f"warning: merge {attribute}: {told} go with what is ignored; {advice}") if told else result


def filter_rows(frame: LabelFrame, filters: Sequence[str]) -> LabelFrame:
    """Keep the rows for which every filter holds: pandas expressions such as `age >= 20 and forehead != 'covered'`.

    Attributes compare with class names, with `<` and its like also with their numbers; an unlabeled row is -1, so `!=`
    keeps it. Of several data sets, those that lack one of its columns keep all their rows. Raises UserError for an
    unknown column or class, an expression that cannot be evaluated, and a filter that keeps no row.
    """
    for number, text in enumerate(filters):
        keep = np.ones(len(frame), dtype=bool)
        used = columns_of(text, frame.rows, f"labels.filters[{number}]")
        concerned = [part for part in frame.parts() if len(frame.parts()) == 1 or frame.knows(used, part)]
        for part in concerned:
            rows = frame.rows.iloc[part].reset_index(drop=True).infer_objects()
            keep[part] = evaluate(text, rows, frame.classes, f"labels.filters[{number}]")
        if not concerned:
            raise UserError(f"labels.filters[{number}]: '{text}': no data set has all of {', '.join(sorted(used))}")
        if not keep.any():
            raise UserError(f"labels.filters[{number}]: '{text}' keeps none of {len(frame):,} rows")
        kept = int(keep.sum())
        end = ": it filters nothing" if kept == len(frame) else ""
        frame = frame.note(f"filter {text}: {kept:,} of {len(frame):,} rows kept{end}")
        frame = frame.with_rows(frame.rows[keep])
    return frame


def joint_classes(frame: LabelFrame, attributes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The combinations of labels that occur: ([N] int64 index into them, their names); independent of the row order.

    Rows of different data sets are never of one combination; where there are several, missing labels are not named.
    """
    if not attributes:
        return frame.data_sets, list(frame.roots) or ["all"]
    cells = np.column_stack([frame.data_sets, frame.rows[list(attributes)].to_numpy()])
    found, code = np.unique(cells, axis=0, return_inverse=True)
    of_set = list(frame.roots)
    names = []
    for number, *row in found:
        shown = [
            frame.classes[name][value] if value >= 0 else f"no-{name}"
            for name, value in zip(attributes, row)
            if value >= 0 or not of_set
        ]
        names.append(" ".join([*of_set[number : number + 1], *shown]))
    return code.reshape(-1), names


def shuffled(keys: Sequence[str] | np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """[N] int64: a random order of `keys` that depends on each key and the seed only, not on the order they come in."""
    salt = f"{purpose}:{seed}:".encode()
    drawn = [hashlib.sha256(salt + encoded(key)).digest() for key in keys]
    return np.array(sorted(range(len(drawn)), key=drawn.__getitem__), dtype=np.int64)
