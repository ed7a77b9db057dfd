"""The table of `semi_supervised.py`: mean and deviation over the seeds, paired differences against the baseline."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from benchmarks.methods import METHODS

BASELINES = {"all": "all-adjusted"}
BASELINE = "adjusted"
PAIRED = ("macro_f1", "last_macro_f1", "ap", "fitted_macro_f1")


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by method, then label count, then seed; heads as they are."""
    order = table.assign(
        of_method=table["method"].map(list(METHODS).index), of_labels=pd.to_numeric(table["labels"], errors="coerce")
    )
    return table.loc[order.sort_values(["of_method", "of_labels", "seed"], kind="stable").index].reset_index(drop=True)


def paired(table: pd.DataFrame, method: str, labels: str, head: str, measure: str) -> pd.Series:
    """Score of the method minus that of the baseline with the same labels, for each seed that has both."""
    chosen = table[(table["labels"] == labels) & (table["head"] == head)]
    of = {name: rows.set_index("seed")[measure] for name, rows in chosen.groupby("method")}
    baseline = of.get(BASELINES.get(labels, BASELINE), pd.Series(dtype=float))
    return (of[method] - baseline).dropna()


def summary(table: pd.DataFrame) -> str:
    """Markdown: what was scored and how, and a line for each method, label count and head."""
    titles = {measure: title for measure, title in _titles(table).items() if measure in table}
    compared = [measure for measure in PAIRED if measure in titles]
    several = table["head"].nunique() > 1
    header = ["method", "labels", *(["head"] if several else []), "seeds", *titles.values()]
    header += [f"Δ {titles[measure]}" for measure in compared]
    lines = [_about(table), "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for key, rows in table.groupby(["method", "labels", "head"], sort=False):
        method, labels, head = map(str, key)
        cells = [METHODS[method].title, labels, *([head] if several else []), str(len(rows))]
        cells += [_cell(rows[measure], measure) for measure in titles]
        for measure in compared:
            difference = paired(table, method, labels, head, measure)
            cells.append(mean_and_deviation(difference, "+"))
            if 0 < len(difference) < len(rows):
                cells[-1] += f" ({len(difference)} seeds)"
            if method == BASELINES.get(labels, BASELINE):
                cells[-1] = "baseline"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_and_deviation(values: Iterable[float], sign: str = "") -> str:
    """`0.870 ± 0.012`, with the deviation of a sample; nothing for no values."""
    array = np.asarray(list(values), dtype=float)
    if not len(array):
        return ""
    text = f"{array.mean():{sign}.3f}"
    return f"{text} ± {array.std(ddof=1):.3f}" if len(array) > 1 else text


def _cell(values: pd.Series, measure: str) -> str:
    known = values.dropna()
    partly = measure == "minutes_to" and len(known) < len(values)
    return mean_and_deviation(known) + (f" ({len(known)} of {len(values)} seeds)" if partly else "")


def _titles(table: pd.DataFrame) -> dict[str, str]:
    flatters = "last_macro_f1" in table
    return {
        "macro_f1": "macro F1, best epoch" if flatters else "macro F1",
        "last_macro_f1": "macro F1, last epoch",
        "ap": "average precision, best epoch" if flatters else "average precision",
        "last_ap": "average precision, last epoch",
        "tta_macro_f1": "macro F1, further views",
        "tta_ap": "average precision, further views",
        "fitted_macro_f1": "macro F1, fitted thresholds",
        "minutes_to": "minutes to the given macro F1",
    }


def _about(table: pd.DataFrame) -> str:
    split = {"valid": "validation", "test": "test"}[table["split"].iloc[0]]
    kinds = set(table["checkpoint"]) - {"none"}
    lines = [f"Scored on the {split} images."]
    if "last" in kinds:
        lines.append("Every run was scored after its last epoch; no epoch was chosen.")
    elif kinds and split == "test":
        lines.append("The best epoch was chosen on the validation images.")
    elif kinds:
        lines.append(
            "**The best epoch was chosen on the images that it is scored on**, which flatters it; the last epoch was "
            "not chosen."
        )
    if "fitted_macro_f1" in table:
        how = "on the validation images" if split == "test" else "on one half of the images and scored on the other"
        lines.append(f"Thresholds were fitted {how}.")
    lines.append(
        "Mean ± standard deviation over the seeds. Δ: difference from supervised training with logit adjustment on "
        "the same labels, seed by seed."
    )
    return " ".join(lines)
