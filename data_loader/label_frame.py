"""The label frame: one row per image, and the pure functions that turn one label frame into the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.row_filter import evaluate
from utils.errors import UserError, did_you_mean

IGNORE = "ignore"  # the name in labels.merge whose rows are dropped
HIDDEN = "hidden/"  # prefix of the columns that keep labels which training must not see


@dataclass(frozen=True, eq=False)
class LabelFrame:
    """The images of a data set and what is known about them.

    rows: RangeIndex; `path` (str, unique, relative to `root`, '/' separated), `group` (str: who may not be split), one
        int64 column per attribute (index into its class names, -1 = not labeled), then the reader's raw columns.
    classes: ordered class names per attribute. history: what each step did, with counts, for the log.
    Raises ValueError if the table breaks these rules.
    """

    rows: pd.DataFrame
    classes: dict[str, tuple[str, ...]]
    root: Path
    history: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = list(self.rows.columns)
        absent = [name for name in ("path", "group", *self.classes) if name not in columns]
        if absent or not self.classes:
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
    def labeled(self) -> pd.Series:
        """[N] bool: the row has a label for at least one attribute."""
        return (self.rows[list(self.classes)] >= 0).any(axis=1)

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


def merge_classes(frame: LabelFrame, merge: Mapping[str, Mapping[str, Sequence[str]]]) -> LabelFrame:
    """Give attributes new classes: `{"forehead": {"shown": ["0", "1"], "covered": ["2"]}}`.

    The new class order is the order of the mapping. Every label that a row has must be named once; the rows of the
    labels under the name `ignore` are dropped. Unlabeled rows stay. Raises UserError for a label that no row has, a
    label that is named twice or not at all, an unknown attribute, and fewer than two classes.
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
        raise UserError(f"{key}: no class for {', '.join(left)}; add to a class, or to '{IGNORE}' to drop these rows")
    names = tuple(name for name in target if name != IGNORE)
    if len(names) < 2:
        raise UserError(f"{key}: needs at least two classes, has {len(names)}")

    values = frame.rows[attribute].to_numpy()
    dropped = np.zeros(len(frame), dtype=bool)
    merged = np.full(len(frame), -1, dtype=np.int64)
    for label, name in owner.items():
        where = values == frame.classes[attribute].index(label)
        if name == IGNORE:
            dropped |= where
        else:
            merged[where] = names.index(name)
    rows = frame.rows.assign(**{attribute: merged})[~dropped].reset_index(drop=True)
    parts = [f"{name} ← {', '.join(f'{x} ({counts[str(x)]:,})' for x in target[name])}" for name in target]
    result = replace(frame, rows=rows, classes={**frame.classes, attribute: names})
    return result.note(f"merge {attribute}: {'; '.join(parts)}")


def filter_rows(frame: LabelFrame, filters: Sequence[str]) -> LabelFrame:
    """Keep the rows for which every filter holds: pandas expressions such as `age >= 20 and forehead != 'covered'`.

    Attributes compare with class names (or indices); an unlabeled row is -1, so `!=` keeps it. Raises UserError for an
    unknown column or class, an expression that cannot be evaluated, and a filter that keeps no row.
    """
    for number, text in enumerate(filters):
        keep = evaluate(text, frame.rows, frame.classes, f"labels.filters[{number}]")
        if not keep.any():
            raise UserError(f"labels.filters[{number}]: '{text}' keeps none of {len(frame):,} rows")
        kept = int(keep.sum())
        end = ": it filters nothing" if kept == len(frame) else ""
        frame = frame.note(f"filter {text}: {kept:,} of {len(frame):,} rows kept{end}")
        frame = frame.with_rows(frame.rows[keep])
    return frame


def hide_labels(frame: LabelFrame, split: pd.Series, labeled: Mapping[str, int], seed: int = 0) -> LabelFrame:
    """Keep the labels of a few training rows and set the others aside: semi-supervised learning on a fully labeled set.

    labeled: `{"count": n}` draws n rows in proportion to the classes, at least one of each; `{"per_class": n}` draws n
    of each class, or all it has. An entry "seed" wins over `seed`. With several attributes a class is a combination of
    their labels, so that a row keeps all its labels or none. The draw depends on the seed and the paths, not on the row
    order, and a smaller draw is part of a larger one. The hidden labels move to the columns `hidden/ATTRIBUTE` (int64,
    -1 = nothing hidden).
    Raises UserError if more labels are asked for than there are, or fewer than there are classes.
    """
    if ("per_class" in labeled) == ("count" in labeled):
        raise UserError("labels.labeled: give either 'per_class' or 'count'")
    key = "count" if "count" in labeled else "per_class"
    train = np.flatnonzero((split == "train").to_numpy() & frame.labeled.to_numpy())
    code, names = joint_classes(frame, frame.attributes)
    present, member = np.unique(code[train], return_inverse=True)
    sizes = np.bincount(member, minlength=len(present))
    quota = (_quota_by_count if key == "count" else _quota_per_class)(sizes, labeled[key])

    order = shuffled(frame.rows["path"].to_numpy()[train], labeled.get("seed", seed), "labeled")
    kept = [train[order][member[order] == index][:count] for index, count in enumerate(quota)]
    hide = np.zeros(len(frame), dtype=bool)
    hide[train] = True
    hide[np.concatenate(kept)] = False
    changed: dict[str, np.ndarray] = {}
    for attribute in frame.attributes:
        values = frame.rows[attribute].to_numpy()
        changed[attribute] = np.where(hide, -1, values)
        changed[HIDDEN + attribute] = np.where(hide, values, -1)
    parts = [
        f"{names[index]} ({count:,}{', all there are' if key == 'per_class' and count < labeled[key] else ''})"
        for index, count in zip(present, quota)
    ]
    text = f"labeled {key} {labeled[key]}: {quota.sum():,} of {len(train):,} training labels kept: {', '.join(parts)}"
    return frame.with_rows(frame.rows.assign(**changed)).note(f"{text}; the others are hidden")


def _quota_per_class(sizes: np.ndarray, wanted: int) -> np.ndarray:
    if wanted < 1 or not len(sizes) or wanted > sizes.max():
        most = sizes.max() if len(sizes) else 0
        raise UserError(f"labels.labeled.per_class: {wanted} asked for; the largest class has {most:,} training labels")
    return np.minimum(sizes, wanted)


def _quota_by_count(sizes: np.ndarray, wanted: int) -> np.ndarray:
    """Labels per class: proportional, at least one each, and never fewer for a larger `wanted`.

    Tijdeman's rule (The chairman assignment problem, 1980) grants one label at a time and stays within one label of the
    exact share after every grant; largest remainders, equal to it for two classes, would not be nested for more.
    """
    if wanted > sizes.sum():
        raise UserError(f"labels.labeled.count: {wanted:,} asked for, but training has {sizes.sum():,} labels")
    if wanted < max(len(sizes), 1):
        raise UserError(f"labels.labeled.count: {wanted} is too few for {len(sizes)} classes")
    share = sizes / sizes.sum()
    slack = 1 - 1 / max(2 * len(sizes) - 2, 1)
    granted = np.zeros(len(sizes), dtype=np.int64)
    grants = np.zeros(wanted, dtype=np.int64)
    for step in range(wanted):
        lag = (step + 1) * share - granted
        due = np.where(lag >= 1 - slack - 1e-9, (slack - lag) / share, np.inf)
        grants[step] = due.argmin()
        granted[grants[step]] += 1
    later = np.delete(grants, np.unique(grants, return_index=True)[1])
    return 1 + np.bincount(later[: wanted - len(sizes)], minlength=len(sizes))


def joint_classes(frame: LabelFrame, attributes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The combinations of labels that occur: ([N] int64 index into them, their names); independent of the row order."""
    if not attributes:
        return np.zeros(len(frame), dtype=np.int64), ["all"]
    found, code = np.unique(frame.rows[list(attributes)].to_numpy(), axis=0, return_inverse=True)
    names = [
        " ".join(frame.classes[a][value] if value >= 0 else f"no-{a}" for a, value in zip(attributes, row))
        for row in found
    ]
    return code.reshape(-1), names


def shuffled(keys: Sequence[str] | np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """[N] int64: a random order of `keys` that depends on each key and the seed only, not on the order they come in."""
    salt = f"{purpose}:{seed}:".encode()
    drawn = [hashlib.sha256(salt + key.encode()).digest() for key in keys]
    return np.array(sorted(range(len(drawn)), key=drawn.__getitem__), dtype=np.int64)
