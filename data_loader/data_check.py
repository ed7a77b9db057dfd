"""A look at a data set before training: what is counted, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from data_loader.age import YEARS
from data_loader.image_files import ImageFile
from data_loader.joint import GENDER, split_joint
from data_loader.label_frame import LabelFrame, shuffled
from data_loader.split import SIDES
from utils.errors import UserError
from utils.joint import JOINT

MOST_JOINT = 60
MOST_VALUES = 12
BIN = 5  # years
FEW_GROUPS = 10
_MOST_EXAMPLES = 10
_NOT_COUNTED = ("path", "group", "split", "person", "id", YEARS)


def in_parts(frame: LabelFrame) -> LabelFrame:
    """Mask, gender and age of a joint label where they can be told apart, else the frame as it is."""
    try:
        return split_joint(frame) if JOINT in frame.classes else frame
    except UserError:
        return frame


def count_labels(frame: LabelFrame, split: pd.Series | None) -> dict[str, Any]:
    """{attribute: {"classes": {name: {"images", "groups", and per side}}, "unlabeled"}}."""
    result: dict[str, Any] = {}
    for attribute, names in frame.classes.items():
        values, classes = frame.rows[attribute].to_numpy(), {}
        for index, name in enumerate(names):
            held = values == index
            classes[name] = {"images": int(held.sum()), "groups": int(frame.rows["group"][held].nunique())}
            if split is not None:
                classes[name] |= {side: int((held & (split == side).to_numpy()).sum()) for side in SIDES}
        result[attribute] = {"classes": classes, "unlabeled": int((values < 0).sum())}
    return result


def count_joint(frame: LabelFrame) -> dict[str, Any] | None:
    """Images of each combination of all attributes, also those that no image has; None for one attribute or too many
    combinations."""
    names = list(frame.classes.values())
    if len(names) < 2 or prod(map(len, names)) > MOST_JOINT:
        return None
    values = frame.rows[list(frame.classes)].to_numpy()
    known = values[(values >= 0).all(axis=1)]
    index = np.ravel_multi_index(tuple(known.T), [len(part) for part in names])
    counts = np.bincount(index, minlength=prod(map(len, names))).tolist()
    return {"attributes": list(frame.classes), "classes": dict(zip(map("/".join, product(*names)), counts))}


def cross_tables(frame: LabelFrame) -> list[dict[str, Any]]:
    """Images by two attributes, for every pair of them."""
    tables = []
    for a, b in combinations(frame.classes, 2):
        shape = len(frame.classes[a]), len(frame.classes[b])
        rows = frame.rows[(frame.rows[a] >= 0) & (frame.rows[b] >= 0)]
        counts = np.bincount(rows[a] * shape[1] + rows[b], minlength=shape[0] * shape[1]).reshape(shape)
        names = {"row_names": list(frame.classes[a]), "column_names": list(frame.classes[b])}
        tables.append({"rows": a, "columns": b, **names, "counts": counts.tolist()})
    return tables


def count_columns(frame: LabelFrame) -> dict[str, dict[str, int]]:
    """Values of the other columns that have few."""
    left = [name for name in frame.rows if name not in {*_NOT_COUNTED, *frame.classes}]
    found = {}
    for name in left:
        counts = frame.rows[name].value_counts(dropna=True)
        if 1 < len(counts) <= MOST_VALUES:
            found[str(name)] = {str(value): int(count) for value, count in counts.sort_index().items()}
    return found


def count_ages(frame: LabelFrame) -> dict[str, Any] | None:
    """Persons (groups) or images by five years of age and gender; None where ages are not known in years."""
    if YEARS not in frame.rows or not pd.api.types.is_numeric_dtype(frame.rows[YEARS]):
        return None
    rows = frame.rows.drop_duplicates(["group", YEARS])
    rows = rows[rows[YEARS].notna()]
    if not len(rows):
        return None
    gender = np.full(len(rows), "all", dtype=object)
    if "gender" in frame.classes:
        gender = np.array([*frame.classes["gender"], "unlabeled"], dtype=object)[rows["gender"]]
    elif "gender" in rows:
        gender = rows["gender"].fillna("unlabeled").astype(str).to_numpy()
    bins = (rows[YEARS].to_numpy() // BIN).astype(int)
    first, last = int(bins.min()), int(bins.max())
    order = sorted(set(gender), key=lambda name: ((*GENDER, name).index(name), name))
    series = {name: np.bincount(bins[gender == name] - first, minlength=last - first + 1).tolist() for name in order}
    return {"counts": "one per group and age", "first": first * BIN, "width": BIN, "series": series}


def count_groups(frame: LabelFrame) -> dict[str, Any]:
    sizes = frame.rows.groupby("group").size()
    common = sizes.value_counts().sort_index()
    return {
        "count": len(sizes),
        "largest": int(sizes.max()),
        "images_per_group": {str(size): int(count) for size, count in common.items()},
    }


def count_split(frame: LabelFrame, split: pd.Series) -> dict[str, Any]:
    """Images, groups and labeled images of each side, and how many groups are on two (0, or training refuses)."""
    sides = {
        side: {
            "images": int((split == side).sum()),
            "groups": int(frame.rows["group"][split == side].nunique()),
            "labeled": int((frame.labeled & (split == side)).sum()),
        }
        for side in SIDES
        if (split == side).any()
    }
    torn = int((split.groupby(frame.rows["group"].to_numpy()).nunique() > 1).sum())
    return {"sides": sides, "groups_on_two_sides": torn}


def exact_duplicates(frame: LabelFrame, facts: Sequence[ImageFile], split: pd.Series | None) -> dict[str, Any]:
    """Files with the same content: how many sets of them, and which of these lie in different groups, on different
    sides of the split, or have different labels."""
    rows = frame.rows.assign(digest=[fact.digest for fact in facts], side=split if split is not None else "")
    rows = rows[(rows["digest"] != "") & rows.duplicated("digest", keep=False)]
    sets = [rows.loc[list(index)] for index in rows.groupby("digest", sort=False).groups.values()]

    def differing(columns: list[str]) -> list[list[str]]:
        return [list(same["path"]) for same in sets if len(same[columns].drop_duplicates()) > 1]

    kinds = {"groups": differing(["group"]), "sides": differing(["side"]), "labels": differing(list(frame.classes))}
    return {
        "sets": len(sets),
        "images": len(rows),
        **{f"different_{kind}": len(found) for kind, found in kinds.items()},
        "such_as": {
            "all": [list(same["path"]) for same in sets[:_MOST_EXAMPLES]],
            **{kind: found[:_MOST_EXAMPLES] for kind, found in kinds.items()},
        },
    }


def find_problems(check: dict[str, Any], size: tuple[int, int]) -> list[str]:
    """What deserves a look before training, worst first, in words. size: views.size."""
    files, copies = check["files"], check["duplicates"]
    said = [
        ("images that are missing", len(files["missing"])),
        ("images that cannot be decoded", len(files["unreadable"])),
        ("sets of identical files on two sides of the split, so that scores are too good", copies["different_sides"]),
        ("sets of identical files with different labels", copies["different_labels"]),
        ("sets of identical files in different groups, which may be split", copies["different_groups"]),
    ]
    problems = [f"{text}: {count:,}" for text, count in said if count]
    odd = {mode: count for mode, count in files["modes"].items() if mode != "RGB"}
    if odd and len(files["modes"]) > 1:
        listed = ", ".join(f"{count:,} {mode}" for mode, count in odd.items())
        problems.append(f"not all images are RGB ({listed}); transparency is dropped, gray becomes RGB")
    if 0 < files["smallest_side"] < min(size):
        problems.append(
            f"the smallest image has a side of {files['smallest_side']} pixels and is enlarged to {size[0]} x {size[1]}"
        )
    rare = [
        f"{name} of {attribute} ({count['groups']})"
        for attribute, counts in check["attributes"].items()
        for name, count in counts["classes"].items()
        if count["groups"] < FEW_GROUPS
    ]
    if rare:
        problems.append(f"classes of fewer than {FEW_GROUPS} groups, whose scores are mostly chance: {', '.join(rare)}")
    return problems


def sample_rows(frame: LabelFrame, held: np.ndarray, count: int) -> list[int]:
    """Up to `count` of the rows in `held` ([N] bool), drawn by their paths, from different groups first."""
    rows = np.flatnonzero(held)
    drawn = rows[shuffled(frame.rows["path"].to_numpy()[rows], 0, "contact sheet")]
    again = frame.rows["group"].iloc[drawn].duplicated().to_numpy()
    return [int(row) for row in drawn[np.argsort(again, kind="stable")][:count]]
