"""What k folds say together: scores of each, their mean and spread, and the scores over all images at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from report.evaluation import HeadPrediction, evaluate_head, joint_head
from report.table import align, score, with_interval

SCORES = ("accuracy", "macro_f1", "balanced_accuracy", "ece")
_TITLES = ("accuracy", "macro F1", "balanced accuracy", "calibration error")


def fold_summary(heads: Sequence[HeadPrediction], groups: Sequence[Any], fold: np.ndarray) -> dict[str, Any]:
    """Scores from out-of-fold predictions, ready for JSON.

    fold: int [N], who predicted each image. `each`: images and scores per head of every fold; `mean` and `std` (of the
    sample, n - 1) over the folds; `pooled`: `evaluate_head` over all images. Several heads have a `joint` one as well;
    a head without any label is not scored.
    """
    scored = [head for head in heads if head.labeled.any()]
    joint = joint_head(heads) if len(scored) == len(heads) else None
    shown = [*scored, joint] if joint else scored
    each = []
    for number in sorted(set(fold.tolist())):
        rows = np.flatnonzero(fold == number)
        of_fold = [HeadPrediction(h.name, h.classes, h.labels[rows], h.probs[rows]) for h in shown]
        known = [group for group, of in zip(groups, fold) if of == number]
        found = {h.name: evaluate_head(h, known, bootstrap=0) for h in of_fold if h.labeled.any()}
        scores = {name: {key: result[key] for key in ("images", *SCORES)} for name, result in found.items()}
        each.append({"fold": number, "images": len(rows), "heads": scores})
    summary: dict[str, Any] = {"each": each, "mean": {}, "std": {}, "pooled": {}}
    for head in shown:
        of_head = [one["heads"][head.name] for one in each if head.name in one["heads"]]
        values = {key: np.array([scores[key] for scores in of_head]) for key in SCORES}
        summary["mean"][head.name] = {key: float(value.mean()) for key, value in values.items()}
        spread = {key: float(value.std(ddof=1)) if len(value) > 1 else math.nan for key, value in values.items()}
        summary["std"][head.name] = {key: None if math.isnan(value) else value for key, value in spread.items()}
        summary["pooled"][head.name] = evaluate_head(head, groups)
    return summary


def format_folds(summary: dict[str, Any]) -> str:
    """Text for the terminal from `fold_summary`: a table per head and its warnings."""
    blocks = [_head_block(name, summary) for name in summary["pooled"]]
    notes = [f"! {note}" for note in summary.get("notes", ())]
    if notes:
        blocks.append("\n".join([*notes, "! so not every score here is of images that no model has seen"]))
    return "\n\n".join(blocks)


def _head_block(name: str, summary: dict[str, Any]) -> str:
    pooled = summary["pooled"][name]
    rows: list[tuple[str, ...]] = [("fold", "images", *_TITLES)]
    for one in summary["each"]:
        if name in one["heads"]:
            rows.append((str(one["fold"]), f"{one['heads'][name]['images']:,}", *_cells(one["heads"][name])))
    rows.append(("mean", "", *_cells(summary["mean"][name])))
    rows.append(("std", "", *_cells(summary["std"][name])))
    rows.append(("all together", f"{pooled['images']:,}", *_cells(pooled)))
    lines = [f"{name}: each image predicted by the model that did not see it", *align(rows)]
    lines.append(f"  macro F1 over all {with_interval(pooled, 'macro_f1')}")
    return "\n".join([*lines, *(f"  ! {warning}" for warning in pooled["warnings"])])


def _cells(scores: dict[str, Any]) -> tuple[str, ...]:
    return tuple(score(scores[key]) for key in SCORES)
