"""Calibration of probabilities (temperature) and decisions (thresholds), and how much of it to believe.

A temperature divides the logarithms of a head's probabilities; it changes how sure a prediction is, never which class.
A threshold is an offset on the log-probability of each class; it changes the decision, never the probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from report.evaluation import HeadPrediction, expected_calibration_error, joint_head, reliability, scores
from utils.files import encoded

METHODS = ("temperature", "thresholds")
HOTTEST = 20.0
SCORES = ("nll", "ece", "accuracy", "macro_f1", "balanced_accuracy")
_SMALLEST = 1e-300
_LEAST_GAP = 1e-9


@dataclass(frozen=True)
class HeadCalibration:
    """What was fitted for one head; offsets: one per class, None = the most probable class is the answer."""

    temperature: float = 1.0
    offsets: tuple[float, ...] | None = None

    def apply(self, head: HeadPrediction) -> HeadPrediction:
        """The head with tempered probabilities and, with offsets, decisions of its own."""
        logs = _logs(head) / self.temperature
        logs -= logs.max(axis=1, keepdims=True)
        probs = np.exp(logs)
        decided = None if self.offsets is None else (logs + np.array(self.offsets)).argmax(axis=1)
        return replace(head, probs=probs / probs.sum(axis=1, keepdims=True), decided=decided)


@dataclass(frozen=True)
class Fit:
    """heads: what was fitted on all images. scores: per head (and `joint`) `before`, `fitted` and `cross_fitted`, each
    with SCORES; the last is None with a single group. cross_fitted: the heads that it was read from."""

    heads: dict[str, HeadCalibration]
    scores: dict[str, dict[str, dict[str, float] | None]]
    cross_fitted: list[HeadPrediction]


def fit_calibration(heads: Sequence[HeadPrediction], groups: Sequence[Any] | np.ndarray, methods: Sequence[str]) -> Fit:
    """Fit each head on its labeled images.

    `fitted` scores the fit on the images that it was fitted on, which flatters it. `cross_fitted` fits on one half of
    the groups and scores the other, both ways, so that no image is scored by a fit that has seen it or its group.
    """
    fitted = {head.name: fit_head(head, methods) for head in heads}
    half = split_in_half(heads, groups)
    crossed = [_cross_fit(head, half, methods) for head in heads] if half.any() else []
    kinds = {
        "before": list(heads),
        "fitted": [fitted[head.name].apply(head) for head in heads],
        "cross_fitted": crossed,
    }
    found: dict[str, dict[str, dict[str, float] | None]] = {}
    for kind, of_kind in kinds.items():
        joint = joint_head(of_kind)
        for head in [*of_kind, joint] if joint else of_kind:
            found.setdefault(head.name, dict.fromkeys(kinds))[kind] = calibration_scores(head)
    return Fit(fitted, found, crossed)


def fit_head(head: HeadPrediction, methods: Sequence[str]) -> HeadCalibration:
    """`temperature` first, then `thresholds` on what it gives."""
    logs, labels = _logs(head)[head.labeled], head.labels[head.labeled]
    temperature = fit_temperature(logs, labels) if "temperature" in methods else 1.0
    offsets = fit_thresholds(logs / temperature, labels) if "thresholds" in methods else None
    return HeadCalibration(temperature, None if offsets is None else tuple(offsets.tolist()))


def fit_temperature(logs: np.ndarray, labels: np.ndarray) -> float:
    """T > 0 that minimises the negative log-likelihood of softmax(logs / T) (Guo et al. 2017, §4.2), within 1/20 … 20.

    logs: float64 [N, C], logits or log-probabilities; labels: int64 [N] ≥ 0. The loss is convex in 1/T, so its slope
    has at most one zero, which is found by bisection. 1 without images.
    """
    own = np.take_along_axis(logs, labels[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        weights = np.exp(inverse * (logs - logs.max(axis=1, keepdims=True)))
        return float(((weights * logs).sum(axis=1) / weights.sum(axis=1) - own).mean())

    if not len(labels) or slope(1.0) == 0:
        return 1.0
    low, high = -np.log(HOTTEST), np.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def fit_thresholds(logs: np.ndarray, labels: np.ndarray, sweeps: int = 20) -> np.ndarray:
    """Offsets [C] for which argmax(logs + offsets) has the best macro F1 over the classes that have labels.

    logs: float64 [N, C]; labels: int64 [N] ≥ 0. Class after class gets its best offset, the others' held, until none
    improves (coordinate ascent): every offset that changes a prediction is tried, so two classes are exact, more end in
    a local optimum. Among equally good offsets the smallest change wins. A class without labels keeps 0.
    """
    classes = logs.shape[1]
    offsets = np.zeros(classes)
    present = np.flatnonzero(np.bincount(labels, minlength=classes))
    if len(present) < 2:
        return offsets
    best = _f1_of(logs.argmax(axis=1), labels, present)
    for _ in range(sweeps):
        before = best
        for index in present[1:] if classes == 2 else present:
            value, change = _best_change(logs + offsets, labels, int(index), present)
            if value > best + 1e-12:
                best = value
                offsets[index] += change
        if best == before:
            break
    return offsets


def _best_change(logs: np.ndarray, labels: np.ndarray, index: int, present: np.ndarray) -> tuple[float, float]:
    """The best macro F1 that a change of one class's offset reaches, and that change."""
    classes = logs.shape[1]
    others = np.delete(np.arange(classes), index)
    rival = others[logs[:, others].argmax(axis=1)]
    needed = logs[np.arange(len(logs)), rival] - logs[:, index]  # a row is `index` from this change on
    order = np.argsort(needed, kind="stable")
    needed, rival, truth = needed[order], rival[order], labels[order]
    # Row k of these: the k rows that need least are `index`, all others their rival.
    lost = np.zeros((len(labels) + 1, classes))
    lost[1:] = np.cumsum(np.eye(classes)[rival], axis=0)
    lost_hits = np.zeros_like(lost)
    lost_hits[1:] = np.cumsum(np.eye(classes)[rival] * (rival == truth)[:, None], axis=0)
    predicted, hits = lost[-1] - lost, lost_hits[-1] - lost_hits
    predicted[:, index] = np.arange(len(labels) + 1)
    hits[1:, index] = np.cumsum(truth == index)
    support = np.bincount(labels, minlength=classes)
    f1 = (2 * hits[:, present] / (support + predicted)[:, present]).mean(axis=1)
    change = np.concatenate([[needed[0] - 1], (needed[1:] + needed[:-1]) / 2, [needed[-1] + 1]])
    f1[1:-1][np.diff(needed) < _LEAST_GAP] = -1  # no offset lies between equal rows
    equal = np.flatnonzero(f1 >= f1.max() - 1e-12)
    chosen = equal[np.abs(change[equal]).argmin()]
    return float(f1[chosen]), float(change[chosen])


def _f1_of(predictions: np.ndarray, labels: np.ndarray, present: np.ndarray) -> float:
    hits = [((predictions == c) & (labels == c)).sum() for c in present]
    either = [(predictions == c).sum() + (labels == c).sum() for c in present]
    return float(np.mean(2 * np.array(hits) / np.array(either)))


def split_in_half(heads: Sequence[HeadPrediction], groups: Sequence[Any] | np.ndarray) -> np.ndarray:
    """[N] bool: which of two halves an image is in; whole groups, alike in labels, the same in every run.

    All False with a single group.
    """
    keys: dict[str, tuple[Any, ...]] = {}
    names = [str(group) for group in groups]
    for row, name in enumerate(names):
        if name not in keys:
            drawn = hashlib.sha256(encoded(name)).hexdigest()
            keys[name] = (*(int(head.labels[row]) for head in heads), drawn)
    second = set(sorted(keys, key=keys.__getitem__)[1::2])
    return np.array([name in second for name in names], dtype=bool)


def _cross_fit(head: HeadPrediction, half: np.ndarray, methods: Sequence[str]) -> HeadPrediction:
    probs, decided = head.probs.copy(), head.predictions.copy()
    for rows in (half, ~half):
        seen, unseen = _rows(head, ~rows), _rows(head, rows)
        applied = fit_head(seen, methods).apply(unseen)
        probs[rows], decided[rows] = applied.probs, applied.predictions
    return replace(head, probs=probs, decided=decided)


def _rows(head: HeadPrediction, rows: np.ndarray) -> HeadPrediction:
    return HeadPrediction(head.name, head.classes, head.labels[rows], head.probs[rows])


def calibration_scores(head: HeadPrediction) -> dict[str, float]:
    """SCORES of the labeled images: mean negative log-likelihood, calibration error, and those of the decisions."""
    labels = head.labels[head.labeled]
    count = len(head.classes)
    cells = np.bincount(labels * count + head.predictions[head.labeled], minlength=count * count)
    own = np.take_along_axis(_logs(head)[head.labeled], labels[:, None], axis=1)
    return {
        "nll": float(-own.mean()),
        "ece": expected_calibration_error(reliability(head)),
        **{name: float(value) for name, value in scores(cells.reshape(count, count)).items()},
    }


def _logs(head: HeadPrediction) -> np.ndarray:
    return np.log(np.maximum(head.probs, _SMALLEST))
