"""What readers share: label tables read as text, labels compared as normalised text, class names in order."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.label_frame import LabelFrame
from utils.errors import UserError, did_you_mean

LEFT_OUT = "-1"
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?")  # not 003397: leading zeros make it a name


def existing_root(root: str) -> Path:
    """The data set's folder. Raises UserError if there is none."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"dataset.args.root: no folder '{root}' (seen from {Path.cwd()})")
    return folder


def locate(root: Path, name: str, key: str) -> Path:
    """The table `name`, relative to the data set's root or to the working directory. Raises UserError if in neither."""
    for path in (root / name, Path(name).expanduser()):
        if path.is_file():
            return path
    near = did_you_mean(Path(name).name, [p.name for p in root.glob("*.csv") if not p.name.startswith("._")])
    raise UserError(f"dataset.args.{key}: no file '{name}' in {root} or in {Path.cwd()}{near}")


def read_table(path: Path) -> pd.DataFrame:
    """A CSV with every cell as stripped text, so that a label column never turns into numbers and matches nothing.

    Raises UserError if the file is not UTF-8, is empty, or has rows with more cells than the header has columns.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save the table as 'CSV UTF-8'") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a table: {error}") from None
    table.columns = [str(name).strip() for name in table.columns]
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = _header(csv.reader(file))
        except csv.Error as error:
            raise UserError(f"{path}: not a table: {error}") from None
    if len(header) == 2 and header[0].startswith("sep="):
        raise UserError(f"{path}: the first line only names the separator; remove it")
    other = next((mark for mark in ";\t|" if "".join(header).count(mark) >= len(header)), None)
    if other is not None:
        raise UserError(f"{path}: the cells are separated by {other!r}; save the table with commas")
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(f"{path}: two columns are called '{twice[0]}'")
    table = table.fillna("").apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)].reset_index(drop=True)
    if not len(table):
        raise UserError(f"{path}: the table has no rows")
    return table


def _header(reader: Iterator[list[str]]) -> list[str]:
    """The names of the columns as they are written; the reader stands behind them then."""
    return [name.strip() for name in next((cells for cells in reader if cells), [])]


def need_columns(table: pd.DataFrame, names: Iterable[str], path: Path) -> None:
    """Raises UserError, with the nearest column, for each of `names` that the table lacks."""
    lacking = [f"no column '{name}'{did_you_mean(name, table.columns)}" for name in names if name not in table.columns]
    if lacking:
        raise UserError(f"{path}: {'; '.join(lacking)}")


def need_cells(table: pd.DataFrame, column: str, path: Path) -> None:
    """Raises UserError, with the first line, if the cell of a row of this file is blank."""
    blank = int((table[column] == "").sum())
    if not blank:
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        place = _header(reader).index(column)
        lines = (
            reader.line_num
            for cells in reader
            if any(map(str.strip, cells)) and not "".join(cells[place : place + 1]).strip()
        )
        raise UserError(f"{path}: line {next(lines)}: the cell of '{column}' is blank ({blank:,} such rows)")


def normalised(cells: pd.Series) -> pd.Series:
    """Labels as text that compares: '1', '1.0' and ' 1' are one label; a blank cell and 'nan' are ''."""
    return cells.map({cell: _normal(cell) for cell in cells.unique()})


def _normal(cell: str) -> str:
    text = cell.strip().replace("\N{MINUS SIGN}", "-")  # as word processors and pages write it
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else "" if text.lower() == "nan" else text


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels in use, without blanks: by number if all are whole numbers, else by name."""
    names = {label for label in labels if label}
    numbers = all(re.fullmatch(r"[+-]?\d+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names))


def indices(labels: pd.Series, names: Sequence[str]) -> np.ndarray:
    """[N] int64 index of each label in `names`; -1 for blanks."""
    position = {name: index for index, name in enumerate(names)}
    return labels.map(position).fillna(-1).to_numpy(dtype=np.int64)


def without_repeats(table: pd.DataFrame, key: str, labels: Sequence[str], path: Path) -> tuple[pd.DataFrame, list[str]]:
    """One row per value of `key`, the first, with what others know where its cell is blank; and a note if there were
    more. Raises UserError if two know different things in one of the columns `labels`."""
    again = table.duplicated(key, keep=False)
    if not again.any():
        return table, []
    known = table.where(table != "").groupby(table[key]).transform("first").fillna("")
    table = table.where((table != "") | ~again.to_numpy()[:, None], known.assign(**{key: table[key]})[table.columns])
    repeated = table[again]
    several = repeated.drop_duplicates([key, *labels])[key]
    differ = list(several[several.duplicated()].unique())
    if differ:
        rows = repeated[repeated[key] == differ[0]]
        column = next(name for name in labels if rows[name].nunique() > 1)
        cells = " and ".join(f"'{cell}'" for cell in rows[column].unique()[:2])
        raise UserError(
            f"{path}: {few(differ, 'image')} listed more than once with different labels "
            f"({differ[0]}: {column} {cells})"
        )
    kept = table.drop_duplicates(key).reset_index(drop=True)
    return kept, [f"{path.name}: {len(table) - len(kept):,} repeated rows dropped, their labels agree"]


def raw_columns(table: pd.DataFrame, taken: Iterable[str]) -> pd.DataFrame:
    """The remaining columns: as numbers where every cell is one, else as text with NaN for blanks.

    A column whose name the label frame itself uses is renamed `raw_NAME`.
    """
    raw = {}
    for name in table.columns:
        cells = table[name].where(table[name] != "")
        numeric = all(_NUMBER.fullmatch(cell) for cell in cells.dropna().unique()) and cells.notna().any()
        raw[f"raw_{name}" if name in set(taken) else name] = pd.to_numeric(cells) if numeric else cells
    return pd.DataFrame(raw, index=table.index)


def with_counts(frame: LabelFrame, attributes: Iterable[str]) -> LabelFrame:
    """Notes of how many images each class of the attributes has, with a warning of those that have none."""
    for attribute in attributes:
        counts, line = frame.counts(attribute), frame.describe(attribute)
        empty = [f"'{name}'" for name, count in counts.items() if not count]
        if empty and len(empty) < len(counts):
            more = ", …" if len(empty) > 3 else ""
            line += f"; warning: no image is {' or '.join(empty[:3])}{more}, so it cannot be learned"
        frame = frame.note(line)
    return frame


def few(names: Sequence[str], noun: str, most: int = 3) -> str:
    """`7 images (9.jpg, 10.jpg, 23.jpg, …)`"""
    more = ", …" if len(names) > most else ""
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'} ({', '.join(names[:most])}{more})"
