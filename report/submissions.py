"""SAVE_DIR/submissions.csv: which checkpoints made a submission, what they scored here and what on the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from report.table import align
from utils.errors import UserError
from utils.file_lock import locked
from utils.files import atomic_write, sha256_of

LEDGER = "submissions.csv"


@dataclass(frozen=True)
class Submission:
    """A row of the ledger, as text; a submission is known by the digest of its file, wherever that goes.

    checkpoints, runs: separated by `;`. valid: the mean of the checkpoints' own scores on their validation images, by
    `metric`; blank where these heads were not scored together. public, private: what the leaderboard said.
    """

    time: str
    file: str
    sha256: str
    checkpoints: str
    runs: str
    how: str
    metric: str = ""
    valid: str = ""
    public: str = ""
    private: str = ""
    note: str = ""


COLUMNS = [field.name for field in fields(Submission)]


def read_ledger(folder: Path) -> list[Submission]:
    """In the order of the file, none where there is no file. Raises UserError if it is not such a table."""
    path = folder / LEDGER
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not path.exists():
        return []
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).strip()})") from None
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise UserError(f"{path}: has no column '{absent[0]}'")
    return [Submission(*row) for row in table[COLUMNS].itertuples(index=False)]


def record(
    folder: Path,
    file: Path,
    checkpoints: Sequence[Path],
    runs: Sequence[str],
    how: str,
    valid: tuple[str, float] | None,
) -> Path:
    """Add a submission that was just written; one of the same content keeps its scores. Returns the ledger's path."""
    metric, score = ("", "") if valid is None else (valid[0], f"{valid[1]:.6f}")
    new = Submission(
        datetime.now().isoformat(" ", "seconds"), str(file), sha256_of(file), ";".join(map(str, checkpoints)),
        ";".join(runs), how, metric, score,
    )  # fmt: skip
    with locked(folder / f".{LEDGER}.lock"):
        known = read_ledger(folder)
        before = next((row for row in known if row.sha256 == new.sha256), new)
        new = replace(new, public=before.public, private=before.private, note=before.note)
        _write(folder, [*(row for row in known if row.sha256 != new.sha256), new])
    return folder / LEDGER


def add_scores(folder: Path, file: Path, public: float | None, private: float | None, note: str | None) -> Submission:
    """Keep what the leaderboard said of a submission file. Raises UserError if the ledger does not know the file, or a
    score is none."""
    if not file.is_file():
        raise UserError(f"{file}: no such submission")
    for option, score in (("--public", public), ("--private", private)):
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"{option} {score:g}: expected a macro F1 from 0 to 1")
    digest = sha256_of(file)
    given = {"public": public, "private": private}
    with locked(folder / f".{LEDGER}.lock"):
        known = read_ledger(folder)
        found = next((row for row in known if row.sha256 == digest), None)
        if found is None:
            same_name = [row for row in known if Path(row.file).name == file.name]
            why = f"; the one called so that was written {same_name[-1].time} had another content" if same_name else ""
            raise UserError(f"{file}: {folder / LEDGER} does not know it{why}; test.py --submission writes it there")
        new = replace(found, **{name: f"{score:g}" for name, score in given.items() if score is not None})
        new = new if note is None else replace(new, note=note)
        _write(folder, [new if row is found else row for row in known])
    return new


def boards_of(ledger: Sequence[Submission]) -> dict[str, tuple[str, str]]:
    """The public and private score of each run that was submitted alone, of the newest submission that has one."""
    return {
        row.runs: (row.public, row.private) for row in ledger if ";" not in row.runs and (row.public or row.private)
    }


def format_ledger(ledger: Sequence[Submission]) -> str:
    """Text for the terminal: a line per submission, and how far validation and leaderboard agree."""
    if not ledger:
        return "nothing was submitted yet; test.py --submission FILE writes a submission"
    rows = [("file", "written", "models", "valid", "public", "private", "valid - public", "how")]
    for row in ledger:
        gap = "" if "" in (row.valid, row.public) else f"{float(row.valid) - float(row.public):+.4f}"
        rows.append(
            (
                row.file,
                row.time[:16],
                str(len(row.runs.split(";"))),
                row.valid[:6],
                row.public,
                row.private,
                gap,
                row.how,
            )
        )
    texts = ["runs", *(row.runs.replace(";", ", ") + (f"  # {row.note}" if row.note else "") for row in ledger)]
    lines = [f"{line}  {text}" for line, text in zip(align(rows), texts)]
    return "\n".join([*lines, *_agreement(ledger)])


def _agreement(ledger: Sequence[Submission]) -> list[str]:
    both = [(float(row.valid), float(row.public)) for row in ledger if row.valid and row.public]
    if not both:
        return []
    table = pd.DataFrame(both, columns=["valid", "public"])
    gap = float((table["valid"] - table["public"]).mean())
    text = f"valid is {abs(gap):.4f} {'above' if gap >= 0 else 'below'} public on average of {len(both)}"
    ranks = float(table.rank()["valid"].corr(table.rank()["public"])) if len(both) > 2 else math.nan
    if not math.isnan(ranks):
        text += f"; their ranks correlate with {ranks:.2f} (1: the better here, the better there)"
    return [text]


def _write(folder: Path, rows: Sequence[Submission]) -> None:
    table = pd.DataFrame([asdict(row) for row in rows], columns=COLUMNS)
    atomic_write(folder / LEDGER, table.to_csv(index=False, lineterminator="\n"))
