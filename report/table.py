"""The per-class table that `test.py` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import east_asian_width

from report.errors import describe_errors

COLUMNS = ("precision", "recall", "f1")


def format_table(metrics: dict[str, Any]) -> str:
    """Text for the terminal from the content of `metrics.json`: tables and scores of heads, kinds of mistakes."""
    blocks = [_head_block(name, head) for name, head in metrics["heads"].items()]
    if metrics.get("joint"):
        blocks.append(_head_block("joint", metrics["joint"]))
    errors = describe_errors(metrics["errors"]) if "errors" in metrics else []
    blocks.append("\n".join(["mistakes", *(f"  {line}" for line in errors)]) if errors else "")
    blocks.append("\n".join(f"! {warning}" for warning in metrics.get("warnings", [])))
    return "\n\n".join(block for block in blocks if block)


def with_interval(head: dict[str, Any], metric: str) -> str:
    """A score and its 95 % interval in words: '0.812 (95 % interval 0.790 to 0.835)'."""
    interval = head["ci95"].get(metric)
    tail = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{head[metric]:.3f}{tail}"


def score(value: float | None) -> str:
    """Three decimals, or a dash where the score is undefined."""
    return "–" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    """A whole percentage; a share too small to show is '<1%', so that 0% is nothing at all."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _head_block(name: str, head: dict[str, Any]) -> str:
    rows = [("class", "precision", "recall", "F1", "support")]
    for label, values in head["per_class"].items():
        precision, recall, f1 = (score(values[column]) for column in COLUMNS)
        rows.append((label, precision, recall, f1, f"{values['support']:,}"))
    lines = [f"{name}: {head['images']:,} labeled images", *align(rows)]
    lines.append(f"  macro F1 {with_interval(head, 'macro_f1')}")
    lines.append(f"  accuracy {with_interval(head, 'accuracy')}")
    lines += [f"  ! {warning}" for warning in head.get("warnings", [])]
    return "\n".join(lines)


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """First column to the left, the others to the right, two blanks between."""
    widths = [max(_width(cell) for cell in column) for column in zip(*rows)]
    lines = []
    for first, *rest in rows:
        cells = [first + " " * (widths[0] - _width(first))]
        cells += [" " * (width - _width(cell)) + cell for cell, width in zip(rest, widths[1:])]
        lines.append("  " + "  ".join(cells))
    return lines


def _width(text: str) -> int:
    """Columns a text takes on a terminal, where East Asian characters take two."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
