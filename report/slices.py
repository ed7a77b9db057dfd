"""Scores apart for every value of a column: whether a model is as good for one kind of images as for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from report.evaluation import HeadPrediction, evaluate_head
from report.table import align, score
from utils.errors import UserError, did_you_mean

MOST_VALUES = 30
KEPT = ("images", "groups", "accuracy", "macro_f1", "balanced_accuracy", "ci95")
NONE = "(none)"


def slice_columns(
    rows: pd.DataFrame, classes: Mapping[str, Sequence[str]], wanted: Sequence[str]
) -> dict[str, list[str]]:
    """The values of each wanted column as text: of an attribute the names of its classes.

    rows: N rows of a label frame; classes: of its attributes. Raises UserError for a column that there is not, or that
    has more than 30 different values.
    """
    found = {}
    for name in wanted:
        if name not in rows or name in ("path", "group"):
            choices = [str(column) for column in rows if column not in ("path", "group")]
            raise UserError(f"--by {name}: the data has no such column{did_you_mean(name, choices, 30)}")
        if name in classes:
            values = np.array([*classes[name], NONE], dtype=object)[rows[name]]
        else:
            values = rows[name].map(_text).to_numpy()
        if len(set(values)) > MOST_VALUES:
            raise UserError(f"--by {name}: has {len(set(values)):,} different values; expected at most {MOST_VALUES}")
        found[name] = [str(value) for value in values]
    return found


def slice_scores(
    heads: Sequence[HeadPrediction], groups: Sequence[Any], columns: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """{column: {value: {"images": N, "heads": {HEAD: scores}}}}, values in the order of their names; a head without a
    labeled image of a value is left out there, and the head that the column is the label of everywhere."""
    names = np.asarray(groups, dtype=object)
    found: dict[str, Any] = {}
    for column, values in columns.items():
        of_row = np.asarray(values, dtype=object)
        found[column] = {}
        for value in sorted(set(values), key=_order):
            rows = np.flatnonzero(of_row == value)
            of_heads = {}
            for head in (head for head in heads if head.name != column):
                decided = None if head.decided is None else head.decided[rows]
                part = replace(head, labels=head.labels[rows], probs=head.probs[rows], decided=decided)
                if part.labeled.any():
                    scored = evaluate_head(part, names[rows].tolist())
                    of_heads[head.name] = {key: scored[key] for key in KEPT}
            found[column][value] = {"images": len(rows), "heads": of_heads}
    return found


def _text(value: Any) -> str:
    if pd.isna(value) or value == "":
        return NONE
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _order(value: str) -> tuple[bool, float, str]:
    """Numbers first, by their size."""
    try:
        return (False, float(value), value)
    except ValueError:
        return (True, 0.0, value)


def slice_rows(of_column: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A table of one column: header, then a row for each value and head."""
    rows: list[tuple[str, ...]] = [("", "head", "images", "groups", "accuracy", "macro F1", "95 % interval")]
    for value, of_value in of_column.items():
        for head, scores in of_value["heads"].items():
            interval = scores["ci95"].get("macro_f1")
            between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–"
            counts = (f"{scores['images']:,}", f"{scores['groups']:,}")
            rows.append((value, head, *counts, score(scores["accuracy"]), score(scores["macro_f1"]), between))
    return rows


def format_slices(by: Mapping[str, Any]) -> str:
    """Text for the terminal from `slice_scores`."""
    return "\n\n".join("\n".join([f"by {name}", *align(slice_rows(of))]) for name, of in by.items())
