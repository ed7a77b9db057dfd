"""PNGs of a report: confusion matrix, reliability diagram, training curves. Each function returns the file's bytes."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.table import percent

RIGHT, WRONG = "#2f6fb2", "#c8541e"
INK, MUTED, GRID = "#222222", "#666666", "#dddddd"
LINES = ("#2f6fb2", "#c8541e", "#3a8f5c", "#8a5bb0", "#b8902a", "#c2477f", "#2a9aa3", "#777777")
STYLES = ("-", "--", ":", "-.")
FONT = "DejaVu Sans"  # comes with matplotlib
# For letters that it lacks, such as Korean class names: those of Linux, Windows and macOS.
FURTHER_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "AppleGothic"),
    *("Apple SD Gothic Neo", "Microsoft YaHei", "PingFang SC", "WenQuanYi Zen Hei", "Yu Gothic", "Arial Unicode MS"),
)
MOST_LINES = len(LINES) * len(STYLES)


def confusion_png(confusion: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """Counts [C, C] (rows true, columns predicted) and the share of the row in each cell; colors only if C > 30."""
    counts = np.asarray(confusion)
    size = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    letters = max(len(name) for name in classes)
    cell = 1.15 if size <= 4 else 0.85 if size <= 9 else 0.62 if size <= 30 else 18 / size
    margin = 0.9 + 0.085 * letters
    figure = new_figure(size * cell + margin + 0.3, size * cell + margin + 0.5)
    axes = figure.add_subplot()
    axes.imshow(_cell_colors(shares))
    small = 12 if size <= 4 else 9 if size <= 9 else 7
    for row, column in np.ndindex(size, size) if size <= 30 else ():
        count, share = counts[row, column], float(shares[row, column])
        text = f"{count:,}\n{percent(share)}" if count else "0" if counts[row].any() else "–"
        color = "white" if share > 0.5 else INK if count else MUTED
        axes.text(column, row, text, ha="center", va="center", fontsize=small, color=color)
    axes.set_xticks(range(size), classes, parse_math=False)
    if letters * 0.1 > cell:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), classes, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.set_title(title, parse_math=False, fontsize=11)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.spines[:].set_visible(False)
    return figure_png(figure)


def reliability_png(bins: pd.DataFrame, title: str) -> bytes:
    """Accuracy against confidence, and how many images lie where; bins as `evaluation.reliability` gives them."""
    figure = new_figure(4.4, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    used = bins[bins["count"] > 0]
    middle = (used["low"] + used["high"]) / 2
    width = float(bins["high"].iloc[0] - bins["low"].iloc[0]) * 0.92
    upper.bar(middle, used["accuracy"], width, color=RIGHT, label="accuracy")
    gap = used["confidence"] - used["accuracy"]
    edge, fill = to_rgba(WRONG), to_rgba(WRONG, 0.25)
    upper.bar(middle, gap, width, used["accuracy"], facecolor=fill, edgecolor=edge, label="gap to confidence")
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    upper.set_title(title, parse_math=False, fontsize=11)
    lower.bar(middle, used["count"], width, color=MUTED)
    lower.set(xlabel="confidence", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        tidy(axes)
    return figure_png(figure)


def curve_groups(table: pd.DataFrame, classes: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Which columns of `metrics.csv` share a chart: title -> {column: its label in the legend}.

    All losses share one chart; a score (`train/accuracy`, `valid/accuracy`, `valid/HEAD/accuracy`) shares one across
    splits and heads; a family with an entry per class (`train/HEAD/pseudo/CLASS`) shares one, in the order of
    `classes`. Columns without a finite number are left out. The learning rate comes last.
    """
    rank = {name: index for index, name in enumerate(classes)}
    names = sorted(rank, key=len, reverse=True)
    groups: dict[str, dict[str, str]] = {"loss": {}}
    for column in table.columns:
        if not str(column).startswith(("train/", "valid/")) or not finite(table[column]).notna().any():
            continue
        family, label = _family(str(column), names)
        groups.setdefault(family, {})[str(column)] = label
    if "lr" in table.columns and finite(table["lr"]).notna().any():
        groups["learning rate"] = {"lr": "lr"}
    return {
        title: dict(sorted(columns.items(), key=lambda column: rank.get(column[1], 0)))
        for title, columns in groups.items()
        if columns
    }


def curve_png(table: pd.DataFrame, columns: dict[str, str], title: str) -> bytes:
    """Columns of `metrics.csv` (column -> legend label) over the epochs."""
    figure = new_figure(4.6, 3.0)
    axes = figure.add_subplot()
    epochs = finite(table["epoch"]) if "epoch" in table.columns else pd.Series(np.arange(1, len(table) + 1))
    handles, labels = [], []
    for index, (column, label) in enumerate(list(columns.items())[:MOST_LINES]):
        values = finite(table[column])
        known = values.notna() & epochs.notna()
        color, style = LINES[index % len(LINES)], STYLES[index // len(LINES)]
        marker = "o" if known.sum() < 25 else None
        handles += axes.plot(epochs[known], values[known], style, color=color, marker=marker, markersize=3)
        labels.append(label)
    if len(handles) > 1:
        legend = axes.legend(handles, labels, frameon=False, fontsize=8, ncols=1 + len(handles) // 7)
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set_title(title if len(columns) > 1 else next(iter(columns)), parse_math=False, fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    tidy(axes)
    return figure_png(figure)


def _family(column: str, classes: Sequence[str]) -> tuple[str, str]:
    for name in classes:
        family = column.removesuffix(f"/{name}")
        if family != column and "/" in family:
            return f"{family} by class", name
    rest, last = column.rsplit("/", 1)
    if "loss" in last:
        return "loss", f"{rest} {last}" if last != "loss" else rest
    return last, rest


def finite(values: pd.Series) -> pd.Series:
    """As numbers, NaN where there is none or it is infinite."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def _cell_colors(shares: np.ndarray) -> np.ndarray:
    """RGB [C, C, 3]: blue for right cells, orange for wrong ones, the deeper the larger the share of the row."""
    right = np.eye(len(shares), dtype=bool)[:, :, None]
    full = np.where(right, to_rgb(RIGHT), to_rgb(WRONG))
    depth = 0.05 + 0.95 * shares[:, :, None]
    return 1 - depth * (1 - full)


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


@functools.cache
def fonts() -> list[str]:
    """The font of all pictures, and those of this machine that can stand in for what it lacks."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [FONT, *(name for name in FURTHER_FONTS if name in installed)]


def new_figure(width: float, height: float, dpi: int = 130) -> Figure:
    matplotlib.rcParams["font.family"] = fonts()
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()
