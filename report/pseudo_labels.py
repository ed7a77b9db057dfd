"""What pseudo-labels were like over a run, from its metrics.csv: charts, one figure of them all, and a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.plots import INK, LINES, MUTED, STYLES, WRONG, figure_png, finite, new_figure, tidy

_COLUMNS = {
    "share": "pseudo",
    "should be": "expected",
    "accepted": "pass_rate",
    "threshold": "threshold",
    "precision": "pseudo_precision",
    "recall": "pseudo_recall",
}


@dataclass(frozen=True)
class Line:
    """A column of metrics.csv in a chart."""

    column: str
    label: str
    color: str
    style: str = "-"


Charts = Mapping[str, Sequence[Line]]


@dataclass(frozen=True)
class PseudoLabelSection:
    """One head on the page: charts (title -> PNG) and a table of the last epoch with pseudo-labels.

    header: of the table's columns after the class; rows: class -> its cells, NaN where undefined; warned: epochs after
    which the collapse guard warned; columns: of metrics.csv, shown here and nowhere else.
    """

    name: str
    slug: str
    charts: Mapping[str, bytes]
    epoch: int
    header: Sequence[str]
    rows: Mapping[str, Sequence[float]]
    warned: Sequence[int]
    columns: frozenset[str]


def pseudo_label_charts(table: pd.DataFrame, head: str, classes: Sequence[str]) -> dict[str, list[Line]]:
    """Title -> the lines of a chart; what the table has no number for is left out. Empty without pseudo-labels."""
    if not _has(table, f"train/{head}/pass_rate"):
        return {}
    charts = all_charts(head, classes)
    found = {title: [line for line in lines if _has(table, line.column)] for title, lines in charts.items()}
    return {title: lines for title, lines in found.items() if lines}


def all_charts(head: str, classes: Sequence[str]) -> dict[str, list[Line]]:
    """Title -> the lines of a chart."""
    looks = {name: (LINES[i % len(LINES)], STYLES[i // len(LINES) % len(STYLES)]) for i, name in enumerate(classes)}

    def by_class(prefix: str) -> list[Line]:
        return [Line(f"{prefix}/{name}", name, *looks[name]) for name in classes]

    shares = by_class(f"train/{head}/pseudo")
    if len(classes) <= len(LINES):
        shares += [Line(f"train/{head}/expected/{c}", f"{c}, should be", looks[c][0], ":") for c in classes]
    return {
        "share of the accepted pseudo-labels": shares,
        "pass rate": [Line(f"train/{head}/pass_rate", "all", INK), *by_class(f"train/{head}/pass_rate")],
        "threshold": by_class(f"train/{head}/threshold"),
        "precision against hidden labels": by_class(f"train/{head}/pseudo_precision"),
        "recall against hidden labels": by_class(f"train/{head}/pseudo_recall"),
        "recall on the validation images": by_class(f"valid/{head}/recall"),
        "confidence, accuracy and KL": [
            Line(f"train/{head}/confidence", "mean confidence", LINES[0]),
            Line(f"train/{head}/pseudo_accuracy", "accuracy against hidden labels", LINES[2]),
            Line(f"train/{head}/pseudo_kl", "KL from the labels' shares", LINES[1]),
        ],
        "losses and lambda_u": [
            Line("train/loss_labeled", "labeled loss", LINES[0]),
            Line("train/loss_unlabeled", "unlabeled loss", LINES[1]),
            Line("train/lambda_u", "lambda_u", MUTED, "--"),
        ],
    }


def pseudo_label_section(
    table: pd.DataFrame, head: str, classes: Sequence[str], slug: str
) -> PseudoLabelSection | None:
    """None for a head without pseudo-labels."""
    charts = pseudo_label_charts(table, head, classes)
    if not charts:
        return None
    last = table[finite(table[f"train/{head}/pass_rate"]).notna()].iloc[-1]
    names = {title: f"train/{head}/{name}" for title, name in _COLUMNS.items()}
    names["recall, valid"] = f"valid/{head}/recall"
    names = {title: name for title, name in names.items() if any(_has(table, f"{name}/{c}") for c in classes)}
    rows = {c: [_number(last.get(f"{name}/{c}")) for name in names.values()] for c in classes}
    return PseudoLabelSection(
        name=head,
        slug=slug,
        charts={title: _chart_png(table, title, lines) for title, lines in charts.items()},
        epoch=int(last["epoch"]),
        header=list(names),
        rows=rows,
        warned=[int(epoch) for epoch in _warned(table)],
        columns=frozenset(c for lines in charts.values() for c in (line.column for line in lines) if f"/{head}/" in c),
    )


def pseudo_label_picture(table: pd.DataFrame, head: str, classes: Sequence[str]) -> np.ndarray:
    """All charts of a head in one picture, uint8 [H, W, 3]; one empty one before there are pseudo-labels."""
    from matplotlib.image import imread

    charts = pseudo_label_charts(table, head, classes)
    columns = min(4, max(1, len(charts)))
    rows = -(-max(1, len(charts)) // columns)
    figure = new_figure(3.9 * columns, 2.8 * rows, dpi=80)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for (title, lines), each in zip(charts.items(), axes):
        _draw(each, table, title, lines)
    for each in axes[len(charts) :]:
        each.set_axis_off()
    picture = imread(io.BytesIO(figure_png(figure)))
    return (picture[:, :, :3] * 255).round().astype(np.uint8)


def _chart_png(table: pd.DataFrame, title: str, lines: Sequence[Line]) -> bytes:
    figure = new_figure(4.6, 3.0)
    _draw(figure.add_subplot(), table, title, lines)
    return figure_png(figure)


def _draw(axes: Axes, table: pd.DataFrame, title: str, lines: Sequence[Line]) -> None:
    epochs = finite(table["epoch"])
    for line in lines:
        values = finite(table[line.column])
        known = values.notna() & epochs.notna()
        marker = "o" if known.sum() < 25 and line.style != ":" else None
        axes.plot(
            epochs[known], values[known], line.style, color=line.color, marker=marker, markersize=3, label=line.label
        )
    for epoch in _warned(table):
        axes.axvspan(epoch - 0.5, epoch + 0.5, color=WRONG, alpha=0.12, linewidth=0)
    if len(lines) > 1:
        legend = axes.legend(frameon=False, fontsize=7.5, ncols=1 + len(lines) // 7)
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set_title(title, parse_math=False, fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    tidy(axes)


def _warned(table: pd.DataFrame) -> list[float]:
    """The epochs after which the collapse guard warned."""
    if "train/warnings" not in table.columns:
        return []
    return finite(table["epoch"])[finite(table["train/warnings"]) > 0].tolist()


def _has(table: pd.DataFrame, column: str) -> bool:
    return column in table.columns and bool(finite(table[column]).notna().any())


def _number(value: object) -> float:
    return float(pd.to_numeric(pd.Series([value]), errors="coerce").iloc[0])
