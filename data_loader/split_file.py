"""A split on disk, taken over by another run, and what tells two of them and their labels apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from data_loader.joint import PARTS
from data_loader.label_frame import DATA_SET, LabelFrame
from data_loader.split import SIDES, check_classes, check_leakage
from utils.errors import UserError
from utils.files import atomic_write, encoded
from utils.joint import JOINT, has_joint


def write_split(path: Path, frame: LabelFrame, split: pd.Series) -> None:
    """Writes path, group, split, labeled (true: the row has a label that training or scoring may use)."""
    labeled = frame.labeled.map({True: "true", False: "false"})
    table = frame.rows[["path", "group"]].assign(split=split.to_numpy(), labeled=labeled)
    atomic_write(path, table.to_csv(index=False, lineterminator="\n"))


def read_split(path: Path, frame: LabelFrame) -> tuple[pd.Series, pd.Series]:
    """The split ([N] str) and which rows were labeled ([N] bool), in the order of `frame`.

    Raises UserError if the file does not hold a split or is about other images than `frame`.
    """
    table = _split_table(path)
    now = pd.Index(frame.rows["path"])
    added, removed = now.difference(table.index), table.index.difference(now)
    if len(added) or len(removed):
        names = ", ".join([*added[:2], *removed[:2]])
        raise UserError(
            f"{path}: the data has changed since: {len(added):,} rows were added and {len(removed):,} removed "
            f"(such as {names})"
        )
    table = table.loc[now].reset_index(drop=True)
    return table["split"], (table["labeled"] == "true").rename("labeled")


def _split_table(path: Path) -> pd.DataFrame:
    """group, split and labeled by path. Raises UserError if the file does not hold a split."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", encoding_errors="surrogateescape")
        table = table.set_index("path")[["group", "split", "labeled"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected the split.csv of a run") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: not a split with columns path, group, split, labeled: {error}") from None
    if (
        not table.index.is_unique
        or not set(table["split"]) <= set(SIDES)
        or not set(table["labeled"]) <= {"true", "false"}
    ):
        raise UserError(f"{path}: expected every path once, split one of {', '.join(SIDES)}, labeled true or false")
    return table


def reuse_split(path: Path, frame: LabelFrame, only_train: Collection[str] = ()) -> tuple[pd.Series, str]:
    """[N] the split of another run's split.csv, and what has changed since: images that are gone are left out, new ones
    follow their group and else are for training, as are all of the data sets named in `only_train`.

    Raises UserError if it knows none of the images, puts a group on two sides (groups may have become larger), or
    leaves a class without a row in train, or in valid if there is any.
    """
    try:
        table = _split_table(path)
    except UserError as error:
        raise UserError(f"split.from: {error}") from None
    paths = frame.rows["path"]
    table = named_as(table, frame)
    split = paths.map(table["split"]).rename("split")
    new, gone = int(split.isna().sum()), len(table.index.difference(pd.Index(paths)))
    if new == len(frame):
        raise UserError(f"split.from: {path} is about other images: none of its {len(table):,} is in the data")
    of_group = dict(zip(table["group"], table["split"]))
    split = split.fillna(frame.rows["group"].map(of_group)).fillna("train")
    within = ~frame.rows[DATA_SET].isin(only_train).to_numpy() if only_train else np.ones(len(frame), bool)
    moved = int((~within & (split != "train")).sum())
    split = split.where(within, "train")
    try:
        check_leakage(frame, split)
    except UserError as error:
        raise UserError(f"split.from {path}: {error}") from None
    sides = [side for side in ("train", "valid") if side == "train" or (split == side).any()]
    check_classes(frame, split, sides, f"split.from {path}", "draw another split", within)
    changed = [f"{gone:,} of its images are gone"] if gone else []
    changed += [f"{new:,} new ones follow their group, or are for training"] if new else []
    changed += [f"{moved:,} of data sets that are for training only are in training now"] if moved else []
    return split, "; ".join([f"split: as in {path}; nothing is drawn", *changed])


def named_as(table: pd.DataFrame, frame: LabelFrame) -> pd.DataFrame:
    """group by path, of another run, by the names that `frame` has: with the name of a data set where that run had this
    one alone; as they are where `frame` knows them, or several data sets do."""
    paths, there = table.index.astype(str), frame.rows["path"]
    having = [name for name in frame.roots if (f"{name}/" + paths).isin(there).any()]
    if paths.isin(there).any() or len(having) != 1:
        return table
    return table.assign(group=f"{having[0]}/" + table["group"]).set_axis(f"{having[0]}/" + paths)


def split_digest(frame: LabelFrame, split: pd.Series) -> str:
    """SHA-256 (hex) of who is where: path, group and side of every row, in whatever order. Labels do not enter."""
    return _digest(frame.rows["path"], frame.rows["group"], split)


def valid_label_digests(frame: LabelFrame, split: pd.Series) -> dict[str, str]:
    """SHA-256 (hex) per head of the names of the labels that validation scores by, in whatever order of the rows; of
    several heads also of their joint label, which a single head of that name may have alike."""
    rows = frame.rows[(split == "valid").to_numpy()]
    named = {head: np.array([*names, ""], dtype=object)[rows[head]] for head, names in frame.heads.items()}
    if has_joint({head: len(names) for head, names in frame.heads.items()}):
        ordered = sorted(named, key=lambda head: PARTS.index(head) if head in PARTS else len(PARTS))
        all_known = (rows[list(named)] >= 0).all(axis=1).to_numpy()
        joined = ["/".join(parts) for parts in zip(*(named[head] for head in ordered))]
        named[JOINT] = np.where(all_known, np.array(joined, dtype=object), "")
    return {head: _digest(rows["path"], pd.Series(column, dtype=object)) for head, column in named.items()}


def label_digest(frame: LabelFrame) -> str:
    """SHA-256 (hex) of the class numbers of every row in use, in whatever order."""
    return _digest(frame.rows["path"], *(frame.rows[head].astype(str) for head in frame.heads))


def _digest(*columns: pd.Series) -> str:
    return hashlib.sha256(encoded("".join(sorted("\t".join(row) + "\n" for row in zip(*columns))))).hexdigest()
