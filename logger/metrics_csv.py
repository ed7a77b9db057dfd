"""metrics.csv: one row per epoch, every number exactly as it was computed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_write

KEYS = ("epoch", "step")


def complete_lines(path: Path, content: bytes) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the file `path`, without a torn last line. Raises UserError if it is no such table."""
    complete = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace").replace("\0", "")
    header, *lines = list(csv.reader(io.StringIO(complete, newline=""))) or [[]]
    if tuple(header[:2]) != KEYS:
        raise UserError(f"{path}: the first line must begin with epoch,step but is {','.join(header)!r}")
    return header, lines


class MetricsCsv:
    """Columns epoch, step, train/…, valid/…, then the others (lr, seconds), each kind in the order of first appearance;
    absent values are blank.

    keep_epoch: None begins a new file; a number continues the file that is there, as it was after that epoch: later
    rows, a torn last line, and columns that only later rows had are dropped. So a resumed run writes the same bytes
    as one that was never stopped.
    Raises UserError if a file to be continued does not begin with the columns epoch and step, OSError if the disk
    refuses: these numbers are the run's record, a run must not go on without them.
    """

    def __init__(self, path: Path, keep_epoch: int | None = None):
        self.path = path
        self.columns: list[str] = [*KEYS]
        self.rows: list[dict[str, str]] = []
        if keep_epoch is None:
            path.unlink(missing_ok=True)
        elif path.exists():
            self._truncate(keep_epoch)

    @property
    def last_epoch(self) -> int | None:
        return int(self.rows[-1]["epoch"]) if self.rows else None

    def append(self, epoch: int, step: int, values: Mapping[str, Real | float]) -> None:
        """Add a row; it is on disk when this returns."""
        row = {"epoch": str(epoch), "step": str(step)} | {key: _cell(value) for key, value in values.items()}
        new = [key for key in row if key not in self.columns]
        self.columns = sorted([*self.columns, *new], key=_kind)
        self.rows.append(row)
        if new or len(self.rows) == 1:
            self._rewrite()
        else:
            with self.path.open("ab") as file:
                file.write(_line(row.get(column, "") for column in self.columns))
                file.flush()
                os.fsync(file.fileno())

    def _truncate(self, keep_epoch: int) -> None:
        before = self.path.read_bytes()
        header, lines = complete_lines(self.path, before)
        for cells in lines:
            row = {column: cell for column, cell in zip(header, cells) if cell}
            if len(cells) == len(header) and cells[0].isdecimal() and int(cells[0]) <= keep_epoch:
                self.rows.append(row)
        self.columns = sorted(
            [*KEYS, *(column for column in header[2:] if any(column in row for row in self.rows))], key=_kind
        )
        if not self.rows:
            self.path.unlink()
        elif self._bytes() != before:
            self._rewrite()

    def _bytes(self) -> bytes:
        return _line(self.columns) + b"".join(_line(row.get(key, "") for key in self.columns) for row in self.rows)

    def _rewrite(self) -> None:
        atomic_write(self.path, self._bytes())


def _kind(column: str) -> int:
    kinds = (*KEYS, "train/", "valid/")
    return next((number for number, start in enumerate(kinds) if column.startswith(start)), len(kinds))


def _cell(value: Real | float) -> str:
    return str(int(value)) if isinstance(value, Integral) else repr(float(value))


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
