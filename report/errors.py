"""What kinds of mistakes there are: which classes are confused, how many attributes at once, ages near a boundary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from report.evaluation import HeadPrediction
from report.vote import JOINT_ORDER
from utils.joint import JOINT

NEAR_YEARS = 2


@dataclass(frozen=True)
class Ages:
    """years: float [N], NaN = not known; boundaries: first ages of the second, third, … class; near: in years."""

    years: np.ndarray
    boundaries: Sequence[int]
    near: int = NEAR_YEARS

    @property
    def is_near(self) -> np.ndarray:
        """Which images' years are at most `near` from a boundary, bool [N]: 28 to 32 for 30 and 2."""
        return (np.abs(self.years[:, None] - np.asarray(self.boundaries)) <= self.near).any(axis=1)


@dataclass(frozen=True)
class Attribute:
    """One attribute's labels (-1 = not labeled) and predictions, int64 [N]."""

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return (self.labels >= 0) & (self.labels != self.predictions)


def error_taxonomy(
    heads: Sequence[HeadPrediction], groups: Sequence[Any] | np.ndarray, ages: Ages | None = None
) -> dict[str, Any]:
    """The mistakes by kind, ready for JSON. A head of joint classes MASK/GENDER/AGE is taken apart.

    `attributes`: for each, images with a label, wrong ones, groups with a wrong one, and the confused pairs of classes
    in either direction, most frequent first. `wrong_at_once`: of the images with all labels, how many have 0, 1, 2, …
    wrong attributes; `combinations`: which. `age`: mistakes among the images near a boundary and among all with known
    years; None without ages.
    """
    parts = [part for head in heads for part in _attributes(head)]
    codes = pd.factorize(pd.Series(groups, dtype=object), use_na_sentinel=False)[0]
    known = np.logical_and.reduce([part.labels >= 0 for part in parts])
    wrong = np.stack([part.wrong for part in parts])
    counts = np.bincount(wrong[:, known].sum(axis=0), minlength=len(parts) + 1)
    kinds = Counter(map(tuple, wrong[:, known].T.tolist()))
    named = {" + ".join(p.name for p, bad in zip(parts, kind) if bad): count for kind, count in kinds.most_common()}
    return {
        "images": int(known.sum()),
        "attributes": {part.name: _confused(part, codes) for part in parts},
        "wrong_at_once": {str(number): int(count) for number, count in enumerate(counts)},
        "combinations": {name: count for name, count in named.items() if name},
        "age": _near_boundary(parts, ages),
    }


def _attributes(head: HeadPrediction) -> list[Attribute]:
    names = [tuple(dict.fromkeys(part)) for part in zip(*(name.split("/") for name in head.classes))]
    whole = ["/".join(combination) for combination in product(*names)]
    if head.name != JOINT or len(names) != len(JOINT_ORDER) or whole != list(head.classes):
        return [Attribute(head.name, head.classes, head.labels, head.predictions)]
    shape = tuple(map(len, names))
    labels = np.unravel_index(np.maximum(head.labels, 0), shape)
    predictions = np.unravel_index(head.predictions, shape)
    return [
        Attribute(name, classes, np.where(head.labeled, label, -1), prediction)
        for name, classes, label, prediction in zip(JOINT_ORDER, names, labels, predictions)
    ]


def _confused(part: Attribute, codes: np.ndarray) -> dict[str, Any]:
    """codes: int64 [N], the group of each image."""
    pairs = []
    for first, second in combinations(range(len(part.classes)), 2):
        there = (part.labels == first) & (part.predictions == second)
        back = (part.labels == second) & (part.predictions == first)
        found = there | back
        if found.any():
            classes = [part.classes[first], part.classes[second]]
            pairs.append({"classes": classes, "images": int(found.sum()), "groups": len(np.unique(codes[found]))})
    return {
        "images": int((part.labels >= 0).sum()),
        "wrong": int(part.wrong.sum()),
        "groups_wrong": len(np.unique(codes[part.wrong])),
        "pairs": sorted(pairs, key=lambda pair: -pair["images"]),
    }


def _near_boundary(parts: Sequence[Attribute], ages: Ages | None) -> dict[str, Any] | None:
    age = next((part for part in parts if part.name == "age"), None)
    if ages is None or age is None:
        return None
    known = (age.labels >= 0) & ~np.isnan(ages.years)
    return {
        "near_years": ages.near,
        "boundaries": list(ages.boundaries),
        "images": int(known.sum()),
        "images_near": int((known & ages.is_near).sum()),
        "wrong": int((known & age.wrong).sum()),
        "wrong_near": int((known & age.wrong & ages.is_near).sum()),
    }


def describe_errors(errors: dict[str, Any], most: int = 6) -> list[str]:
    """Lines for a reader; none where a single head's confusion matrix says it all."""
    if len(errors["attributes"]) < 2 and errors["age"] is None:
        return []
    lines = []
    if len(errors["attributes"]) > 1 and errors["images"]:
        at_once = ", ".join(f"{number}: {count:,}" for number, count in errors["wrong_at_once"].items())
        lines.append(f"attributes wrong at once, of {errors['images']:,} images with all labels: {at_once}")
        several = [(name, count) for name, count in errors["combinations"].items() if " + " in name]
        if several:
            lines.append("wrong together: " + ", ".join(f"{name} {count:,}" for name, count in several[:most]))
    for name, found in errors["attributes"].items():
        pairs = ", ".join(f"{' ↔ '.join(p['classes'])} {p['images']:,}" for p in found["pairs"][:most])
        groups = f" in {found['groups_wrong']:,} groups: {pairs}" if pairs else ""
        lines.append(f"{name}: {found['wrong']:,} of {found['images']:,} wrong{groups}")
    age = errors["age"]
    if age is not None:
        boundaries = " or ".join(map(str, age["boundaries"]))
        lines.append(
            f"age, at most {age['near_years']} years from {boundaries}: {age['wrong_near']:,} of {age['wrong']:,} "
            f"mistakes, {age['images_near']:,} of {age['images']:,} images"
        )
    return lines
