"""The rows of a corrections file, and what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loader.readers.table import need_columns, normalised, read_table

APPLIED, ALREADY, UNMATCHED, CONFLICTING = "applied", "already right", "unmatched", "conflicting"
STATUSES = (APPLIED, ALREADY, UNMATCHED, CONFLICTING)


@dataclass(frozen=True)
class Correction:
    """One row of the file; number counts from 1 after the header."""

    number: int
    path: str
    id: str
    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"row {self.number} ({self.path or self.id}, {self.field}: {self.old or 'any'} → {self.new})"


@dataclass(frozen=True)
class Verdict:
    """What became of a row: one of STATUSES, of how many images, and why not."""

    correction: Correction
    status: str
    images: int = 0
    why: str = ""

    @property
    def refused(self) -> bool:
        return self.status in (UNMATCHED, CONFLICTING)

    def __str__(self) -> str:
        count = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        return f"{self.correction}: {self.why or count}"


class Unmatched(Exception):
    """No image is meant, or not one person's images."""


class Conflict(Exception):
    """The data or another row says otherwise, or the row makes no sense."""


def read_corrections(file: Path) -> list[Correction]:
    """The rows of a corrections file. Raises UserError if it lacks a column."""
    table = read_table(file)
    table.columns = table.columns.str.lower()
    need_columns(table, [*([] if "path" in table.columns else ["id"]), "field", "from", "to"], file)
    keys = [table[name] if name in table.columns else [""] * len(table) for name in ("path", "id")]
    cells = [normalised(table[name]) for name in ("field", "from", "to")]
    return [Correction(number, *row) for number, row in enumerate(zip(*keys, *cells), start=1)]


def summary(file: Path, verdicts: Sequence[Verdict]) -> str:
    """`fix.csv: 57 corrections: 55 applied, 1 already right, 1 unmatched, 0 conflicting`"""
    counts = [f"{sum(v.status == status for v in verdicts):,} {status}" for status in STATUSES]
    return f"{file}: {len(verdicts):,} corrections: {', '.join(counts)}"
