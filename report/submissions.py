"""SAVE_DIR/submissions.csv: which checkpoints made a submission, what they scored here and what on the leaderboard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from report.table import align
from utils.errors import UserError
from utils.file_lock import locked
from utils.files import atomic_write, sha256_of

LEDGER = "submissions.csv"
SCORES = ("valid", "public", "private")
COLUMNS = ("time", "file", "sha256", "checkpoints", "runs", "how", "metric", *SCORES, "note")
Row = dict[str, str]
"""A line of the ledger; a submission is known by the digest of its file, wherever that goes.

checkpoints, runs: separated by `;`. how: the vote, and further views. valid: the mean of the checkpoints' own scores
on their validation images, by `metric`; blank where these heads were not scored together. public, private: what the
leaderboard said. Further columns are the user's own and stay.
"""


def read_ledger(folder: Path) -> list[Row]:
    """In the order of the file, none where there is no file. Raises UserError if it is not such a table."""
    path = folder / LEDGER
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    header = reader.fieldnames or []
    if absent := [name for name in COLUMNS if name not in header]:
        raise UserError(
            f"{path}: has no column '{absent[0]}'; expected a table with commas between {', '.join(COLUMNS)}"
        )
    rows = []
    for number, row in enumerate(reader, start=2):
        beyond: Any = row.pop(None, [])  # type: ignore[call-overload]
        if any(beyond):
            raise UserError(f"{path}: line {number} has more cells than the first line")
        for name in SCORES:
            if row[name] and not _is_number(row[name]):
                raise UserError(f"{path}: line {number}: {name}: expected a number such as 0.7412, found '{row[name]}'")
        rows.append(row)
    return rows


def record(
    folder: Path,
    file: Path,
    checkpoints: Sequence[Path],
    runs: Sequence[str],
    how: str,
    valid: tuple[str, float] | None,
) -> Path:
    """Add a submission that was just written; what the leaderboard said of one of the same content holds for it too.
    Returns the ledger's path. Raises UserError or OSError if it cannot be kept."""
    metric, score = ("", "") if valid is None else (valid[0], f"{valid[1]:.6f}")
    new: Row = {
        "time": datetime.now().isoformat(" ", "seconds"), "file": str(file), "sha256": sha256_of(file),
        "checkpoints": ";".join(map(str, checkpoints)), "runs": ";".join(runs), "how": how, "metric": metric,
        "valid": score,
    }  # fmt: skip

    def add(rows: list[Row]) -> list[Row]:
        same = [row for row in rows if row["sha256"] == new["sha256"]]
        told = {name: same[-1][name] for name in ("public", "private")} if same else {}
        again = next((row for row in same if all(row[k] == new[k] for k in ("checkpoints", "how"))), {})
        return [*(row for row in rows if row is not again), {**again, **new, **told}]

    _change(folder, add)
    return folder / LEDGER


def add_scores(folder: Path, file: Path, public: float | None, private: float | None, note: str | None) -> None:
    """Keep what the leaderboard said of a submission file. Raises UserError if the ledger does not know the file, or a
    score is none."""
    if not file.is_file():
        raise UserError(f"{file}: no such submission")
    for option, score in (("--public", public), ("--private", private)):
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"{option} {score:g}: expected a macro F1 from 0 to 1")
    digest = sha256_of(file)
    scores = {"public": public, "private": private}
    new = {name: repr(score) for name, score in scores.items() if score is not None}
    new |= {} if note is None else {"note": note}

    def add(rows: list[Row]) -> list[Row]:
        if not any(row["sha256"] == digest for row in rows):
            same_name = [row for row in rows if Path(row["file"]).name == file.name]
            why = (
                f"; the one called so that was written {same_name[-1]['time']} had another content" if same_name else ""
            )
            raise UserError(f"{file}: {folder / LEDGER} does not know it{why}; test.py --submission writes it there")
        return [{**row, **new} if row["sha256"] == digest else row for row in rows]

    _change(folder, add)


def leaderboard(ledger: Sequence[Row], run: str, best: Mapping[str, float]) -> tuple[str, str]:
    """The newest public and private score of a run's best checkpoint alone, as it is; blank where there is none.

    best: the row of metrics.csv of the run's best epoch, by which its checkpoint is known.
    """
    public = private = ""
    for row in ledger:
        alone = row["runs"] == run and ";" not in row["checkpoints"] and not row["how"] and row["valid"]
        if alone and abs(float(row["valid"]) - best.get(row["metric"], math.nan)) < 1e-6:
            public, private = row["public"] or public, row["private"] or private
    return public, private


def format_ledger(ledger: Sequence[Row]) -> str:
    """Text for the terminal: a line per submission, and how far validation and leaderboard agree."""
    if not ledger:
        return "nothing was submitted yet; test.py --submission FILE writes a submission"
    rows = [("file", "written", "models", "valid", "public", "private", "valid - public", "how")]
    for row in ledger:
        gap = f"{float(row['valid']) - float(row['public']):+.4f}" if row["valid"] and row["public"] else ""
        models = str(len(row["checkpoints"].split(";")))
        valid, public, private = (f"{float(row[name]):.4f}" if row[name] else "" for name in SCORES)
        rows.append((row["file"], row["time"][:16], models, valid, public, private, gap, row["how"]))
    notes = [f"  # {row['note']}" if row["note"] else "" for row in ledger]
    texts = ["runs", *(row["runs"].replace(";", ", ") + note for row, note in zip(ledger, notes))]
    return "\n".join([*(f"{line}  {text}" for line, text in zip(align(rows), texts)), *_agreement(ledger)])


def _agreement(ledger: Sequence[Row]) -> list[str]:
    both = [(float(row["valid"]), float(row["public"])) for row in ledger if row["valid"] and row["public"]]
    if not both:
        return []
    table = pd.DataFrame(both, columns=["valid", "public"])
    gap = float((table["valid"] - table["public"]).mean())
    text = f"valid is {abs(gap):.4f} {'above' if gap >= 0 else 'below'} public on average of {len(both)}"
    ranks = float(table.rank()["valid"].corr(table.rank()["public"])) if len(both) > 2 else math.nan
    if not math.isnan(ranks):
        text += f"; their ranks correlate with {ranks:.2f} (1: the better here, the better there)"
    return [text]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _change(folder: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Write what `change` makes of the rows, while no other process does. One that is damaged is not touched."""
    read_ledger(folder)
    with _lock(folder):
        rows = change(read_ledger(folder))
        columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(folder / LEDGER, text.getvalue())


def _lock(folder: Path) -> AbstractContextManager[bool]:
    file = folder / f".{LEDGER}.lock"
    try:
        file.touch()
    except OSError as error:
        raise UserError(f"{folder}: nothing can be written there ({error.strerror})") from None
    return locked(file)
