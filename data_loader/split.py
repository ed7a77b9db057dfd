"""Train, valid and test, or k folds: dealt out by group and in proportion to the classes; split.csv."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from data_loader.label_frame import DATA_SET, LabelFrame, shuffled
from data_loader.strata import strata_of
from utils.errors import UserError, did_you_mean

SIDES = ("train", "valid", "test")
_SPELLINGS = {
    **{side: side for side in SIDES},
    **{"training": "train", "val": "valid", "validation": "valid", "testing": "test"},
}


def make_split(
    frame: LabelFrame,
    valid: float,
    test: float,
    stratify: Sequence[str] | None = None,
    seed: int = 0,
    only_train: Collection[str] = (),
) -> pd.Series:
    """[N] 'train', 'valid' or 'test' per row; no group is on two sides.

    The labeled rows are dealt out so that each combination of the labels of `stratify` (None = all attributes) has its
    share on each side, exactly (within one image) where groups are single images; larger groups first, each to the side
    that lacks most. Unlabeled rows follow their group, else they are for training. The result depends on the seed, the
    paths and the groups, not on the order of the rows.

    `stratify` may also name raw columns of class names, whose rows with a name then count as labeled. So frames of
    the same images with different attributes in use are split alike where `stratify` names all of these.

    A column `split` of the reader is kept as it is; sides it does not name get their share of its training rows. Each
    of several data sets is split by itself, so that one may bring such a column; all rows of those named in
    `only_train` are for training.
    Raises UserError for impossible shares, an unknown attribute, a class that has no row in train or valid, and a
    `split` column that puts a group on two sides or leaves labeled rows out.
    """
    wanted = {"valid": float(valid), "test": float(test)}
    if min(wanted.values()) < 0 or sum(wanted.values()) >= 1:
        raise UserError(f"split: valid {valid} and test {test} must be at least 0 and together less than 1")
    strata, labeled = strata_of(frame, stratify)
    sides = np.full(len(frame), "train", dtype=object)
    drawn: dict[str, float] = {}
    for part in frame.parts():
        if only_train and frame.rows[DATA_SET].iloc[part[0]] in only_train:
            continue
        of_part, shares = _split_part(frame.with_rows(frame.rows.iloc[part]), strata[part], labeled[part], wanted, seed)
        sides[part] = of_part
        drawn |= shares
    split = pd.Series(sides, index=frame.rows.index, name="split")
    if drawn:
        given = ", ".join(f"split.{side} {share:g}" for side, share in drawn.items())
        within = ~frame.rows[DATA_SET].isin(only_train).to_numpy() if only_train else None
        checked = ["train", *(["valid"] if "valid" in drawn else [])]
        check_classes(frame, split, checked, given, "change the shares", within, stratify)
    return split


def _split_part(
    frame: LabelFrame, strata: np.ndarray, labeled: np.ndarray, wanted: Mapping[str, float], seed: int
) -> tuple[pd.Series, dict[str, float]]:
    """The split of one data set's rows, and the shares that were drawn."""
    split = pd.Series("train", index=frame.rows.index, name="split")
    if "split" in frame.rows.columns and not (frame.roots and frame.rows["split"].isna().all()):
        split = _given_split(frame)
        check_leakage(frame, split, f"{frame.root}: {_SPLIT_COLUMN}")
    shares = {side: share for side, share in wanted.items() if share > 0 and not (split == side).any()}
    if shares:
        pool = (split == "train").to_numpy() & labeled
        groups = frame.rows["group"].to_numpy(dtype=object)
        side_of = _deal(groups[pool], strata[pool], {**shares, "train": 1 - sum(shares.values())}, seed)
        split = frame.rows["group"].map(side_of).fillna(split).rename("split")
    return split, shares


def make_folds(
    frame: LabelFrame,
    folds: int,
    stratify: Sequence[str] | None = None,
    seed: int = 0,
    within: pd.Series | None = None,
) -> pd.Series:
    """[N] int64: the fold 1 … `folds` of each row; no group is in two folds, each labeled row is in one.

    The labeled rows are dealt out as in `make_split`, the same share of each combination of labels to every fold.
    Unlabeled rows follow their group, else they are in no fold: 0. `within` ([N] bool) leaves rows out: 0 as well.
    Raises UserError for fewer than two folds, an unknown attribute, and a class that not every fold gets.
    """
    if folds < 2:
        raise UserError(f"split.folds: expected at least 2, got {folds}")
    strata, labeled = strata_of(frame, stratify)
    inside = np.ones(len(frame), dtype=bool) if within is None else within.to_numpy()
    pool = labeled & inside
    groups = frame.rows["group"].to_numpy(dtype=object)
    names = [f"fold {number}" for number in range(1, folds + 1)]
    fold_of = _deal(groups[pool], strata[pool], dict.fromkeys(names, 1 / folds), seed)
    fold = frame.rows["group"].map(fold_of).where(inside)
    advice = "use fewer folds" if folds > 2 else "use a drawn split"
    check_classes(frame, fold, names, f"split.folds {folds}", advice, inside, stratify)
    return fold.map({name: number for number, name in enumerate(names, start=1)}).fillna(0).astype(np.int64)


def make_fold_split(
    frame: LabelFrame,
    folds: int,
    fold: int,
    test: float,
    stratify: Sequence[str] | None = None,
    seed: int = 0,
    only_train: Collection[str] = (),
) -> pd.Series:
    """[N] 'train', 'valid' or 'test' per row: fold number `fold` (1 … `folds`) is valid.

    The test rows (a share drawn first, or those of the reader's column `split`) are the same for all folds and in none
    of them. What such a column calls train and valid is dealt out together. `only_train`: as in `make_split`.
    """
    held = make_split(frame, 0.0, test, stratify, seed, only_train) == "test"
    within = ~held & ~frame.rows[DATA_SET].isin(only_train) if only_train else ~held
    number = make_folds(frame, folds, stratify, seed, within)
    split = np.select([held, number == fold], ["test", "valid"], "train")
    return pd.Series(split, index=frame.rows.index, name="split", dtype=object)


_SPLIT_COLUMN = "dataset: the column that says the split (dataset.args.split, or 'split')"


def _given_split(frame: LabelFrame) -> pd.Series:
    """The reader's column `split` in our words; blank rows follow their group."""
    cells = frame.rows["split"].fillna("").astype(str).str.strip().str.lower()
    unknown = sorted(set(cells) - set(_SPELLINGS) - {""})
    if unknown:
        raise UserError(f"{_SPLIT_COLUMN}: unknown value '{unknown[0]}'{did_you_mean(unknown[0], SIDES)}")
    split = cells.map(_SPELLINGS).rename("split")
    blank = int((split.isna() & frame.labeled).sum())
    if blank:
        raise UserError(f"{_SPLIT_COLUMN}: {blank:,} labeled rows are blank; expected train, valid or test")
    known = split.notna()
    followed = dict(zip(frame.rows["group"][known], split[known]))
    return split.fillna(frame.rows["group"].map(followed)).fillna("train").rename("split")


def _deal(groups: np.ndarray, strata: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Group → side. groups: [M] str, strata: [M] int64, of the labeled rows; shares: of every side, summing to 1."""
    if not len(groups):
        return {}
    sides = list(shares)
    names, member = np.unique(groups, return_inverse=True)
    present, stratum = np.unique(strata, return_inverse=True)
    counts = np.zeros((len(names), len(present)), dtype=np.int64)
    np.add.at(counts, (member, stratum), 1)
    target = np.outer(list(shares.values()), counts.sum(axis=0))  # [sides, strata]
    order = shuffled(names, seed, "split")
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    side_of = np.zeros(len(names), dtype=np.int64)

    given = np.zeros_like(target)
    larger = order[counts[order].sum(axis=1) > 1]
    for group in larger:
        # growth of chi²(given, target) over the strata and the whole; for equal groups that is Sainte-Laguë's rule
        more, lead = counts[group], 2 * (given - target) + counts[group]
        cost = (more * lead / target).sum(axis=1) + more.sum() * lead.sum(axis=1) / target.sum(axis=1)
        side_of[group] = cost.argmin()
        given[side_of[group]] += more

    single = order[len(larger) :]
    stratum_of = counts[single].argmax(axis=1)
    quota = _whole_quotas(target - given, np.bincount(stratum_of, minlength=len(present)))
    for index in range(len(present)):
        side_of[single[stratum_of == index]] = np.repeat(np.arange(len(sides)), quota[:, index])
    return dict(zip(names, np.array(sides, dtype=object)[side_of]))


def _whole_quotas(lacking: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[sides, strata] whole numbers within one of `lacking`, scaled so that they sum to the strata's `sizes` [strata].

    Each stratum's odd images go where it and all strata together lack most, so that the totals fit as well. Small
    strata first: what they need shifts the totals least.
    """
    exact = lacking.clip(min=0)
    exact[-1] += exact.sum(axis=0) == 0  # nothing lacks anything: the last side
    exact *= sizes / exact.sum(axis=0)
    quota = np.floor(exact + 1e-9).astype(np.int64)
    odd = sizes - quota.sum(axis=0)
    for stratum in np.argsort(sizes, kind="stable"):
        part = exact[:, stratum] - quota[:, stratum]
        part[part < 1e-9] = -np.inf
        for _ in range(odd[stratum]):
            need = (exact.sum(axis=1) - quota.sum(axis=1)) / max(odd.sum(), 1)
            side = (part + need).argmax()
            quota[side, stratum] += 1
            odd[stratum] -= 1
            part[side] = -np.inf
    return quota


def check_classes(
    frame: LabelFrame,
    split: pd.Series,
    sides: Sequence[str],
    given: str,
    advice: str,
    within: np.ndarray | None = None,
    stratify: Sequence[str] | None = (),
) -> None:
    """Raises UserError, beginning with `given`, if a class that any row (of `within`) has is missing on a side.

    stratify: what the split was dealt out by, None for all attributes; empty where it was not drawn.
    """
    lines, scarce = [], list[str]()
    for attribute, names in frame.classes.items():
        for index, name in enumerate(names):
            held = frame.rows[attribute] == index
            held = held if within is None else held & within
            lacking = [side for side in sides if held.any() and not (held & (split == side)).any()]
            for side in lacking[:1]:
                groups = frame.rows["group"][held].nunique()
                scarce += [attribute] if groups >= len(sides) else []
                lines.append(
                    f"class '{name}' of {attribute} ({held.sum():,} rows, {groups:,} groups) has none in {side}"
                )
    if lines:
        by = list(frame.classes if stratify is None else stratify)
        alone = scarce and by and by != scarce[:1]
        ways = [f'set split.stratify=["{scarce[0]}"] to deal out its classes alone'] if alone else []
        raise UserError(
            f"{given}: {'; '.join(lines)}; {', '.join([*ways, 'label more of it'])}, merge the class, or {advice}"
        )


def check_leakage(frame: LabelFrame, split: pd.Series, where: str = "split") -> None:
    """Raises UserError that begins with `where`, naming the groups, if a group is on two sides."""
    sides = split.groupby(frame.rows["group"].to_numpy()).nunique()
    torn = list(sides.index[sides > 1])
    if torn:
        more = ", …" if len(torn) > 5 else ""
        if frame.roots and frame.rows[frame.rows["group"].isin(torn)].groupby("group")[DATA_SET].nunique().max() > 1:
            more += (
                "; they have images of several data sets, which are split one by one (labels.duplicates joins them): "
                'leave one copy out with labels.corrections ("prepare.py duplicates" lists them)'
            )
        raise UserError(
            f"{where}: {len(torn):,} of {len(sides):,} groups are on two sides: {', '.join(torn[:5])}{more}"
        )
