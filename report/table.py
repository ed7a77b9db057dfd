"""The per-class table that `test.py` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import east_asian_width

from report.errors import describe_errors

COLUMNS = ("precision", "recall", "f1")
_CALIBRATED = {"macro_f1": "macro F1", "ece": "calibration error", "nll": "log loss"}


def format_table(metrics: dict[str, Any]) -> str:
    """Text for the terminal from the content of `metrics.json`: heads, kinds of mistakes, calibration, warnings."""
    blocks = [_head_block(name, head) for name, head in metrics["heads"].items()]
    if metrics.get("joint"):
        blocks.append(_head_block("joint", metrics["joint"]))
    errors = describe_errors(metrics["errors"]) if "errors" in metrics else []
    blocks.append("\n".join(["mistakes", *(f"  {line}" for line in errors)]) if errors else "")
    fitted = [f"  {line}" for line in describe_calibration(metrics.get("calibration"))]
    fitted += align(calibration_rows(metrics.get("calibration")))
    blocks.append("\n".join(["calibration", *fitted]) if fitted else "")
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


def calibration_rows(calibration: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """The table of a fit (`calibration` in metrics.json): header, then rows per head; empty without a fit."""
    if not calibration or "scores" not in calibration:
        return []
    rows: list[tuple[str, ...]] = [("", "before", "fitted", "cross-fitted")]
    for name, kinds in calibration["scores"].items():
        for key, title in _CALIBRATED.items():
            values = (kinds[kind][key] if kinds[kind] else None for kind in ("before", "fitted", "cross_fitted"))
            rows.append((f"{name}: {title}", *map(score, values)))
    return rows


def describe_calibration(calibration: Mapping[str, Any] | None) -> list[str]:
    """What was fitted, and how to read it; none without a calibration."""
    if not calibration:
        return []
    lines = [
        f"{'fitted' if 'scores' in calibration else 'applied'}: {' and '.join(calibration['methods'])}, in "
        f"{calibration['file']}"
    ]
    for name, fitted in calibration["heads"].items():
        parts = [f"temperature {fitted['temperature']:.3g}"] if "temperature" in calibration["methods"] else []
        if fitted["offsets"]:
            parts.append("offsets " + ", ".join(f"{c} {o:+.3g}" for c, o in zip(fitted["classes"], fitted["offsets"])))
        lines.append(f"{name}: {'; '.join(parts)}")
    if "scores" in calibration:
        lines.append(
            "The other scores here are those before. 'fitted' is scored on the images that it was fitted on, which "
            "flatters it; 'cross-fitted' is fitted on one half of the groups and scored on the other, both ways."
        )
    return lines


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """First column to the left, the others to the right, two blanks between."""
    if not rows:
        return []
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
