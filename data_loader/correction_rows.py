"""The rows of a corrections file, and what became of each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_loader.readers.table import need_columns, normalised, read_table
from utils.errors import UserError

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
    """The rows of a corrections file; none where there is only a header.

    Raises UserError if it lacks a column, or a row has more cells than there are columns.
    """
    header, rows = _cells(file)
    table = pd.DataFrame(columns=header, dtype=str) if header and not rows else read_table(file)
    table.columns = table.columns.str.lower()
    need_columns(table, [*([] if "path" in table.columns else ["id"]), "field", "from", "to"], file)
    keys = [table[name] if name in table.columns else [""] * len(table) for name in ("path", "id")]
    cells = [normalised(table[name]) for name in ("field", "from", "to")]
    return [Correction(number, *row) for number, row in enumerate(zip(*keys, *cells), start=1)]


def _cells(file: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows that are not blank; nothing where the file is no text."""
    header: list[str] = []
    rows: list[list[str]] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if not header:
                    header = cells
                elif any(cells):
                    rows.append(cells)
                if len(cells) > len(header):
                    raise UserError(
                        f"{file}, line {reader.line_num}: {len(cells)} cells, but {len(header)} columns "
                        f"({', '.join(header)}); a cell with a comma in it must stand in double quotes"
                    )
    except (UnicodeDecodeError, csv.Error):
        return [], []  # read_table says what is wrong
    return header, rows


def summary(file: Path, verdicts: Sequence[Verdict]) -> str:
    """`fix.csv: 57 corrections: 55 applied, 1 already right, 1 unmatched, 0 conflicting`"""
    counts = [f"{sum(v.status == status for v in verdicts):,} {status}" for status in STATUSES]
    return f"{file}: {len(verdicts):,} corrections: {', '.join(counts)}"
