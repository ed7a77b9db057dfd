"""Do two people label alike? Agreement beyond chance (Cohen 1960), and the images to talk about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from data_loader.readers.table import (
    class_names,
    need_cells,
    need_columns,
    normalised,
    read_table,
    without_repeats,
)
from utils.errors import UserError

KEYS = ("path", "file", "id")  # what images are called by, in the first of these that both tables have
MOST_CLASSES = 30
WEAK = 0.6  # of kappa; "moderate" and less (Landis and Koch 1977)


@dataclass(frozen=True)
class Agreement:
    """Of one column. confusion: counts, rows the first table's labels, columns the second's. kappa: 1 for perfect, 0
    for chance, None where only one class is used. differing: the images, with both labels."""

    column: str
    images: int
    only_first: int
    only_second: int
    kappa: float | None
    confusion: pd.DataFrame
    differing: pd.DataFrame

    @property
    def share(self) -> float:
        return 1 - len(self.differing) / self.images if self.images else 0.0

    @property
    def most_confused(self) -> tuple[str, str] | None:
        """The two classes that differ most often, whichever way round; None if no image differs."""
        pairs = Counter(tuple(sorted(pair)) for pair in zip(self.differing["from"], self.differing["other"]))
        return None if not pairs else pairs.most_common(1)[0][0]

    def between(self, a: str, b: str) -> tuple[int, float]:
        """How many images are one of the two for both, and the agreement on which, beyond chance."""
        counts = self.confusion.loc[[a, b], [a, b]].to_numpy()
        labels = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(counts.ravel(), axis=0)
        return int(counts.sum()), float(cohen_kappa_score(labels[:, 0], labels[:, 1]))


def compare_tables(
    first: Path, second: Path, columns: Sequence[str] = (), key: str | None = None
) -> tuple[str, list[Agreement]]:
    """What images are called by, and the agreement of each column (default: those of both tables with few values).

    Blank cells are not labeled; labels are compared as everywhere (`1`, `1.0`). Raises UserError if the tables have no
    images or no such columns in common, or if one says two things of an image.
    """
    for file in (first, second):
        if not file.is_file():
            raise UserError(f"{file}: no such file")
    tables = [read_table(first), read_table(second)]
    shared = [str(name) for name in tables[0] if name in tables[1]]
    key = key or next((name for name in KEYS if name in shared), None)
    if key is None:
        raise UserError(f"{first}, {second}: have none of the columns {', '.join(KEYS)} in common; name it with --key")
    for table, file in zip(tables, (first, second)):
        need_columns(table, [key, *columns], file)
        need_cells(table, key, file)
    wanted = list(columns) or [name for name in shared if name != key and _has_classes(tables, name)]
    if not wanted:
        raise UserError(f"{first}, {second}: have no column of labels in common beside '{key}'")
    for number, (table, file) in enumerate(zip(tables, (first, second))):
        for name in [key, *wanted]:
            table[name] = normalised(table[name])
        tables[number] = without_repeats(table[[key, *wanted]], key, wanted, file)[0].set_index(key)
    both = tables[0].index.intersection(tables[1].index)
    if not len(both):
        raise UserError(
            f"{first}, {second}: have no image in common by '{key}' (such as {tables[0].index[0]} and "
            f"{tables[1].index[0]})"
        )
    return key, [_of_column(name, tables[0].loc[both, name], tables[1].loc[both, name]) for name in wanted]


def describe(found: Agreement) -> list[str]:
    """What to print of one column."""
    kappa = "only one class is used" if found.kappa is None else f"kappa {found.kappa:.3f}"
    lines = [
        f"{found.column}: {found.images:,} images labeled by both, {found.share:.1%} alike, {kappa}; labeled by one "
        f"only: {found.only_first:,} and {found.only_second:,}"
    ]
    if found.most_confused is not None:
        a, b = found.most_confused
        images, of_pair = found.between(a, b)
        lines.append(
            f"  most often confused: '{a}' and '{b}'; of {images:,} images that are one of them, kappa {of_pair:.3f}"
        )
        if of_pair < WEAK:
            lines.append(
                f"  ! weak: settle what tells '{a}' from '{b}', or make them one with labels.merge.{found.column}; no "
                "network learns what two people do not see alike"
            )
    return lines


def corrections_of(found: Sequence[Agreement], key: str) -> pd.DataFrame:
    """The images that differ as a corrections file for the first table, whose column `to` is to be filled in (where
    they are called by `path` or `id`, as corrections are)."""
    tables = [one.differing.rename(columns={"image": key}).assign(field=one.column, to="") for one in found]
    return pd.concat(tables, ignore_index=True)[[key, "field", "from", "to", "other"]]


def _has_classes(tables: Sequence[pd.DataFrame], name: str) -> bool:
    return all(1 <= table[name][table[name] != ""].nunique() <= MOST_CLASSES for table in tables)


def _of_column(name: str, first: pd.Series, second: pd.Series) -> Agreement:
    known = (first != "") & (second != "")
    a, b = first[known], second[known]
    classes = class_names([*a, *b])
    confusion = pd.crosstab(a.to_numpy(), b.to_numpy()).reindex(index=classes, columns=classes, fill_value=0)
    kappa = float(cohen_kappa_score(a, b)) if len(classes) > 1 else None
    differ = a.index[(a != b).to_numpy()]
    differing = pd.DataFrame({"image": differ, "from": a[differ].to_numpy(), "other": b[differ].to_numpy()})
    only_first, only_second = int(((first != "") & (second == "")).sum()), int(((first == "") & (second != "")).sum())
    return Agreement(name, int(known.sum()), only_first, only_second, kappa, confusion, differing)
