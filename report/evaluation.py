"""Scores of one classifier head: what `metrics.json` holds, with intervals that know whose photos are whose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from utils.errors import UserError
from utils.joint import JOINT, has_joint

FEW_GROUPS, FEW_IMAGES = 20, 3


@dataclass(frozen=True)
class HeadPrediction:
    """What one head says about N images.

    classes: C names in order; labels: int64 [N], -1 = not labeled; probs: float64 [N, C], rows sum to 1; decided: int64
    [N], the predicted classes where they are not simply the most probable ones.
    Raises ValueError on shapes or values that do not fit, UserError if the model's output is not finite.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    probs: np.ndarray
    decided: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.probs.shape != (len(self.labels), len(self.classes)):
            shapes = f"labels {self.labels.shape}, probs {self.probs.shape}, {len(self.classes)} classes"
            raise ValueError(f"head '{self.name}': shapes do not fit: {shapes}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"head '{self.name}': class names must differ: {self.classes}")
        if len(self.labels) and not -1 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(f"head '{self.name}': labels must lie in -1..{len(self.classes) - 1}")
        broken = int((~np.isfinite(self.probs)).any(axis=1).sum())
        if broken:
            raise UserError(
                f"head '{self.name}': the model's output for {broken:,} of {len(self.labels):,} images is not a finite"
                " number; its training has probably diverged: use an earlier checkpoint or a lower learning rate"
            )
        if not np.allclose(self.probs.sum(axis=1), 1.0, atol=1e-3):
            raise ValueError(f"head '{self.name}': each row of probs must sum to 1 (logits were given?)")

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class of each image, or what was decided, int64 [N]."""
        return self.probs.argmax(axis=1) if self.decided is None else self.decided

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float64 [N]."""
        return np.take_along_axis(self.probs, self.predictions[:, None], axis=1)[:, 0]

    @property
    def labeled(self) -> np.ndarray:
        """Which images have a label, bool [N]."""
        return self.labels >= 0


def evaluate_head(
    head: HeadPrediction, groups: Sequence[Any] | np.ndarray, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """All scores of one head over its labeled images; ready for JSON: a number that is undefined (0/0) is None.

    groups: N group ids. The 95 % intervals are percentiles over `bootstrap` resamples of whole groups, since photos
    of one person are not independent. Macro F1 is the mean over the classes that occur in labels or predictions;
    average precision is that of one class against the rest, its mean over the classes that occur in the labels.
    Raises UserError if no image is labeled.
    """
    if len(groups) != len(head.labels):
        raise ValueError(f"head '{head.name}': {len(groups)} groups for {len(head.labels)} images")
    labeled = head.labeled
    if not labeled.any():
        raise UserError(
            f"head '{head.name}': none of the {len(labeled):,} images is labeled; there is nothing to score"
        )
    count = len(head.classes)
    cells = head.labels[labeled] * count + head.predictions[labeled]
    confusion = np.bincount(cells, minlength=count * count).reshape(count, count)
    group_codes = _codes(groups)[labeled]
    support, predicted, hit = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    columns = {
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, support),
        "f1": _ratio(2 * hit, support + predicted),
    }
    ranking = [_average_precision(head, index) for index in range(count)]
    result: dict[str, Any] = {
        "images": int(labeled.sum()),
        "groups": len(np.unique(group_codes)),
        **{name: float(value) for name, value in scores(confusion).items()},
        "per_class": {
            name: {
                **{key: _number(values[i]) for key, values in columns.items()},
                "support": int(support[i]),
                "ap": ranking[i],
            }
            for i, name in enumerate(head.classes)
        },
        "confusion": confusion.tolist(),
        "ci95": _bootstrap(cells, group_codes, count, bootstrap, seed),
        "ece": expected_calibration_error(reliability(head)),
        "mean_average_precision": float(np.mean([ap for ap in ranking if ap is not None])),
    }
    if count == 2:
        rare = int(support[1] <= support[0])
        result["average_precision"] = {head.classes[rare]: ranking[rare]}
    result["warnings"] = _warnings(head.classes, support, predicted, result["groups"])
    return result


def scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """accuracy, macro_f1 and balanced_accuracy, each [...], of confusion matrices [..., C, C] (rows true)."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return {
        "accuracy": hit.sum(axis=-1) / support.sum(axis=-1),
        "macro_f1": np.nanmean(_ratio(2 * hit, support + predicted), axis=-1),
        "balanced_accuracy": np.nanmean(_ratio(hit, support), axis=-1),
    }


def difference_of_f1(
    one: HeadPrediction, other: HeadPrediction, groups: Sequence[Any] | np.ndarray, rounds: int = 1000, seed: int = 0
) -> list[float] | None:
    """95 % interval of macro F1 of `one` minus that of `other`, on the same images: percentiles over resamples of whole
    groups; None for a single group."""
    labeled, count = one.labeled, len(one.classes)
    cells = [head.labels[labeled] * count + head.predictions[labeled] for head in (one, other)]
    found = _resampled(cells[0] * count**2 + cells[1], _codes(groups)[labeled], rounds, seed)
    if found is None:
        return None
    used, counts = found
    f1 = []
    for of_head in (used // count**2, used % count**2):
        confusion = np.zeros((rounds, count**2))
        np.add.at(confusion.T, of_head, counts.T)
        f1.append(scores(confusion.reshape(rounds, count, count))["macro_f1"])
    return [float(edge) for edge in np.percentile(f1[0] - f1[1], [2.5, 97.5])]


def reliability(head: HeadPrediction, bins: int = 15) -> pd.DataFrame:
    """Labeled images binned by confidence: columns low, high, count, confidence, accuracy (NaN in an empty bin)."""
    confidence = head.confidence[head.labeled]
    right = (head.predictions == head.labels)[head.labeled]
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": counts,
            "confidence": _ratio(np.bincount(index, confidence, minlength=bins), counts),
            "accuracy": _ratio(np.bincount(index, right, minlength=bins), counts),
        }
    )


def expected_calibration_error(bins: pd.DataFrame) -> float:
    """Mean gap between confidence and accuracy, weighted by images (ECE; Guo et al. 2017, §2)."""
    gap = (bins["confidence"] - bins["accuracy"]).abs().fillna(0.0)
    return float((gap * bins["count"]).sum() / bins["count"].sum())


def joint_head(heads: Sequence[HeadPrediction]) -> HeadPrediction | None:
    """All heads as one: the class is the tuple of their classes, numbered with the last head running fastest.

    As `compose_heads`, and None as well where no image is labeled for all heads.
    """
    joint = compose_heads(heads)
    return joint if joint is not None and joint.labeled.any() else None


def compose_heads(heads: Sequence[HeadPrediction]) -> HeadPrediction | None:
    """The joint answer of heads, whether or not there are labels.

    Heads are taken as independent: the probability of a tuple is the product. An image is labeled if it is for all.
    None where this says nothing: a single head, a head that is itself named 'joint', more than 36 tuples, or tuples
    whose names coincide.
    """
    if not has_joint({head.name: len(head.classes) for head in heads}):
        return None
    labeled = np.logical_and.reduce([head.labeled for head in heads])
    labels = np.zeros(len(labeled), dtype=np.int64)
    probs = np.ones((len(labeled), 1))
    decided = np.zeros(len(labeled), dtype=np.int64)
    classes = [""]
    for head in heads:
        size = len(head.classes)
        labels = labels * size + head.labels
        decided = decided * size + head.predictions
        probs = (probs[:, :, None] * head.probs[:, None, :]).reshape(len(labels), -1)
        classes = [f"{before}/{name}" if before else name for before in classes for name in head.classes]
    if len(set(classes)) < len(classes):
        return None
    own = None if all(head.decided is None for head in heads) else decided
    return HeadPrediction(JOINT, tuple(classes), np.where(labeled, labels, -1), probs, own)


def _bootstrap(cells: np.ndarray, codes: np.ndarray, count: int, rounds: int, seed: int) -> dict[str, Any]:
    """Percentile intervals over resampled groups; None for each if there are no rounds or just one group.

    cells: confusion cell (true * C + predicted) of each labeled image; codes: its group.
    """
    found = _resampled(cells, codes, rounds, seed)
    if found is None:
        return dict.fromkeys(("accuracy", "macro_f1", "balanced_accuracy"))
    resampled = np.zeros((rounds, count * count))
    resampled[:, found[0]] = found[1]
    values = scores(resampled.reshape(rounds, count, count))
    return {name: [float(edge) for edge in np.percentile(value, [2.5, 97.5])] for name, value in values.items()}


def _resampled(cells: np.ndarray, codes: np.ndarray, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The cells that occur [U], and how often each does in every resample of whole groups, float64 [rounds, U]; None if
    there are no rounds or just one group."""
    used, cells = np.unique(cells, return_inverse=True)
    order = np.lexsort((cells, codes))
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    if rounds < 1 or not len(starts):
        return None
    # Groups with the same outcomes are interchangeable, so drawing how often each distinct outcome occurs is the same
    # bootstrap at a fraction of the cost: with one image per group there are at most U outcomes.
    outcomes = Counter(group.tobytes() for group in np.split(cells[order], starts))
    matrices = np.stack([np.bincount(np.frombuffer(key, cells.dtype), minlength=len(used)) for key in outcomes])
    groups = len(starts) + 1
    chances = np.fromiter(outcomes.values(), dtype=np.float64) / groups
    draws = np.random.default_rng(seed).multinomial(groups, chances, size=rounds)
    return used, draws.astype(np.float64) @ matrices


def _warnings(classes: tuple[str, ...], support: np.ndarray, predicted: np.ndarray, groups: int) -> list[str]:
    total = int(support.sum())
    found = []
    never = [f"'{classes[i]}' ({support[i]:,} images)" for i in np.flatnonzero((predicted == 0) & (support > 0))]
    if (predicted > 0).sum() == 1 and len(classes) > 1:
        found.append(f"all {total:,} predictions are '{classes[int(predicted.argmax())]}'")
    elif never:
        found.append(f"never predicted, though labeled: {_listed(never)}")
    few = [f"'{classes[i]}' ({support[i]:,})" for i in np.flatnonzero((support > 0) & (support < FEW_IMAGES))]
    if few:
        averaged = int(((support > 0) | (predicted > 0)).sum())
        found.append(f"few images: {_listed(few)}; each class has 1/{averaged} of the macro F1, which hangs on so few")
    missing = [f"'{classes[i]}'" for i in np.flatnonzero(support == 0)]
    if missing:
        found.append(f"no image is labeled {_listed(missing)}: recall is unknown there")
    if groups == 1:
        found.append("all labeled images belong to one group: the scores have no interval")
    elif groups < FEW_GROUPS:
        found.append(f"only {groups} groups are labeled: the intervals are rough")
    return found


def _listed(items: list[str], most: int = 6) -> str:
    tail = [f"{len(items) - most} more"] if len(items) > most else []
    return ", ".join([*items[:most], *tail])


def _average_precision(head: HeadPrediction, index: int) -> float | None:
    truth = head.labels[head.labeled] == index
    return float(average_precision_score(truth, head.probs[head.labeled, index])) if truth.any() else None


def _codes(groups: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Group ids as integers [N]; a missing id is a group of its own."""
    codes, uniques = pd.factorize(pd.Series(groups, dtype=object))
    lonely = np.flatnonzero(codes < 0)
    codes[lonely] = len(uniques) + np.arange(len(lonely))
    return codes


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _number(value: float) -> float | None:
    return None if isnan(value) else float(value)
