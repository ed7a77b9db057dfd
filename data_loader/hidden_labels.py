"""Labels set aside, to measure semi-supervised learning on a fully labeled set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_loader.label_frame import DATA_SET, HIDDEN, LabelFrame, joint_classes, shuffled
from utils.errors import UserError


def hide_labels(
    frame: LabelFrame, split: pd.Series, labeled: Mapping[str, int], seed: int = 0, data_set: str | None = None
) -> LabelFrame:
    """Keep the labels of a few training rows and set the others aside: semi-supervised learning on a fully labeled set.

    labeled: `{"count": n}` draws n rows in proportion to the classes, at least one of each; `{"per_class": n}` draws n
    of each class, or all it has. An entry "seed" wins over `seed`. With several attributes a class is a combination of
    their labels, so that a row keeps all its labels or none, and with several data sets one of each of them. data_set:
    leave the others as they are. The draw depends on the seed and the paths, not on the row order, and a smaller draw
    is part of a larger one. The hidden labels move to the columns `hidden/ATTRIBUTE` (int64,
    -1 = nothing hidden).
    Raises UserError if more labels are asked for than there are, or fewer than there are classes.
    """
    if ("per_class" in labeled) == ("count" in labeled):
        raise UserError("labels.labeled: give either 'per_class' or 'count'")
    key = "count" if "count" in labeled else "per_class"
    meant = (split == "train").to_numpy() & frame.labeled.to_numpy()
    train = np.flatnonzero(meant if data_set is None else meant & (frame.rows[DATA_SET] == data_set).to_numpy())
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
        changed[HIDDEN + attribute] = np.where(hide, values, frame.rows.get(HIDDEN + attribute, -1))
    parts = [
        f"{names[index]} ({count:,}{', all there are' if key == 'per_class' and count < labeled[key] else ''})"
        for index, count in zip(present, quota)
    ]
    of = "" if data_set is None else f" of {data_set}"
    text = (
        f"labeled {key} {labeled[key]}{of}: {quota.sum():,} of {len(train):,} training labels kept: {', '.join(parts)}"
    )
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
