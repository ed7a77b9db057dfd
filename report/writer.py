"""Writes the report of one evaluation: metrics.json, predictions.csv, PNGs and index.html."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from report import plots
from report.errors import Ages, describe_errors, error_taxonomy
from report.evaluation import (
    HeadPrediction,
    compose_heads,
    evaluate_head,
    expected_calibration_error,
    joint_head,
    reliability,
)
from report.page.gallery import Explain, error_cells, unsure_right
from report.page.page import Page, Section, render
from report.pseudo_labels import PseudoLabelSection, pseudo_label_section
from report.slices import slice_rows, slice_scores
from utils.errors import UserError
from utils.files import atomic_write


def write_report(
    out_dir: Path,
    rows: pd.DataFrame,
    heads: Sequence[HeadPrediction],
    *,
    split: str,
    checkpoints: Sequence[str],
    root: Path | Mapping[str, Path],
    title: str,
    about: str = "",
    notes: Sequence[str] = (),
    metrics_csv: Path | None = None,
    ages: Ages | None = None,
    calibration: Mapping[str, Any] | None = None,
    cross_fitted: Sequence[HeadPrediction] = (),
    explain: Explain | None = None,
    by: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Write all files into out_dir (made if needed) and return the content of metrics.json.

    rows: N rows in the order of the predictions, columns path (relative to root; where there are several, NAME/… to
    root[NAME]), group, split. metrics_csv: the run's table of epochs; without it, or if it is not there, the page
    has no training curves. ages: in years, where they are known. calibration: what was fitted or applied;
    cross_fitted: heads for a second reliability diagram. explain: draws what speaks for a prediction. by: values of
    columns, N each, for each of which scores are given apart. A head without labels is not scored but its
    predictions are kept.
    Raises UserError if no head has a labeled image.
    """
    if any(len(head.labels) != len(rows) for head in heads):
        raise ValueError(f"{len(rows)} rows, but heads of {[len(head.labels) for head in heads]}")
    scored = [head for head in heads if head.labeled.any()]
    if not scored:
        names = ", ".join(f"'{head.name}'" for head in heads)
        raise UserError(f"split '{split}': none of its {len(rows):,} images is labeled for {names}; nothing to score")
    joint = joint_head(scored) if len(scored) == len(heads) else None
    shown = [*scored, joint] if joint else scored
    groups = rows["group"].tolist()
    results = {head.name: evaluate_head(head, groups) for head in shown}
    metrics: dict[str, Any] = {
        "images": len(rows),
        "split": split,
        "checkpoints": [str(checkpoint) for checkpoint in checkpoints],
        "heads": {head.name: results[head.name] for head in scored},
        "joint": results["joint"] if joint else None,
        "errors": error_taxonomy(scored, groups, ages),
        "by": slice_scores(shown, groups, by or {}),
        "calibration": calibration,
        "warnings": [
            f"head '{head.name}' has no labeled image in split '{split}': it is not scored"
            for head in heads
            if not head.labeled.any()
        ],
    }
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    atomic_write(out_dir / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    table = prediction_table(rows, heads).to_csv(index=False, lineterminator="\n")
    atomic_write(out_dir / "predictions.csv", table)
    slugs = _slugs([head.name for head in shown])
    redone = {head.name: head for head in cross_fitted}
    sections = [
        _section(out_dir, head, results[head.name], slugs[head.name], rows["path"], root, explain) for head in scored
    ]
    sections = [replace(s, cross_fitted=_cross_fitted(out_dir, redone.get(s.name), s.slug)) for s in sections]
    if joint:
        sections.append(_section(out_dir, joint, results["joint"], slugs["joint"]))
    curves: dict[str, bytes] = {}
    pseudo_labels: list[PseudoLabelSection] = []
    try:
        epochs = _epochs(metrics_csv)
        pseudo_labels = _pseudo_labels(out_dir, epochs, heads)
        drawn = {column for section in pseudo_labels for column in section.columns}
        curves = _curves(out_dir, epochs.drop(columns=drawn), [name for head in heads for name in head.classes])
    except ValueError as error:  # pandas' parser errors: a damaged table must not cost the whole page
        notes = [*notes, f"{metrics_csv} cannot be read, so there are no training curves: {error}"]
    said = describe_errors(metrics["errors"])
    slices = {column: slice_rows(of_column) for column, of_column in metrics["by"].items()}
    page = render(Page(title, about, metrics, notes, sections, curves, said, pseudo_labels, slices))
    atomic_write(out_dir / "index.html", page.encode("utf-8", "replace"))
    return metrics


def prediction_table(rows: pd.DataFrame, heads: Sequence[HeadPrediction]) -> pd.DataFrame:
    """One row per image: path, split and per head HEAD/label, HEAD/prediction, HEAD/confidence, HEAD/p/CLASS.

    Labels and predictions are class names; the label of an image that is not labeled is None. Where heads make a joint
    label together, its label, prediction and confidence follow; its probabilities are products of theirs.
    """
    columns: dict[str, Any] = {"path": rows["path"].to_numpy(), "split": rows["split"].to_numpy()}
    joint = compose_heads(heads)
    for head in heads if joint is None else [*heads, joint]:
        names = np.array([*head.classes, None], dtype=object)
        columns[f"{head.name}/label"] = names[head.labels]
        columns[f"{head.name}/prediction"] = names[head.predictions]
        columns[f"{head.name}/confidence"] = head.confidence
        if head is not joint:
            columns |= {f"{head.name}/p/{name}": head.probs[:, i] for i, name in enumerate(head.classes)}
    return pd.DataFrame(columns)


def _section(
    out_dir: Path,
    head: HeadPrediction,
    result: dict[str, Any],
    slug: str,
    paths: pd.Series | None = None,
    root: Path | Mapping[str, Path] | None = None,
    explain: Explain | None = None,
) -> Section:
    """The head's PNGs on disk and its part of the page; without paths it has no pictures."""
    png = plots.confusion_png(result["confusion"], head.classes, f"{head.name}: macro F1 {result['macro_f1']:.3f}")
    atomic_write(out_dir / f"confusion_{slug}.png", png)
    diagram = plots.reliability_png(reliability(head), f"{head.name}: calibration error {result['ece']:.3f}")
    atomic_write(out_dir / f"reliability_{slug}.png", diagram)
    if paths is None or root is None:
        return Section(head.name, slug, result, diagram)
    cells, more = error_cells(head, paths, root, explain)
    return Section(head.name, slug, result, diagram, cells, more, unsure_right(head, paths, root, explain))


def _cross_fitted(out_dir: Path, head: HeadPrediction | None, slug: str) -> bytes:
    """The reliability diagram of a head after its calibration, also on disk."""
    if head is None:
        return b""
    bins = reliability(head)
    png = plots.reliability_png(bins, f"{head.name}, cross-fitted: {expected_calibration_error(bins):.3f}")
    atomic_write(out_dir / f"reliability_{slug}_cross_fitted.png", png)
    return png


def _epochs(metrics_csv: Path | None) -> pd.DataFrame:
    return pd.DataFrame() if metrics_csv is None or not Path(metrics_csv).is_file() else pd.read_csv(metrics_csv)


def _pseudo_labels(out_dir: Path, table: pd.DataFrame, heads: Sequence[HeadPrediction]) -> list[PseudoLabelSection]:
    """Of each head that had pseudo-labels; their charts are also written as pseudo_HEAD_TITLE.png."""
    slugs = _slugs([head.name for head in heads])
    found = [pseudo_label_section(table, head.name, head.classes, slugs[head.name]) for head in heads]
    sections = [section for section in found if section is not None]
    for section in sections:
        names = _slugs(list(section.charts))
        for title, png in section.charts.items():
            atomic_write(out_dir / f"pseudo_{section.slug}_{names[title]}.png", png)
    return sections


def _curves(out_dir: Path, table: pd.DataFrame, classes: Sequence[str]) -> dict[str, bytes]:
    """Title -> PNG, also written as curve_TITLE.png."""
    groups = plots.curve_groups(table, classes)
    slugs = _slugs(list(groups))
    curves = {title: plots.curve_png(table, columns, title) for title, columns in groups.items()}
    for title, png in curves.items():
        atomic_write(out_dir / f"curve_{slugs[title]}.png", png)
    return curves


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """Each name as a file name and page anchor of its own: letters, digits, '_' and '-'."""
    slugs: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^\w-]+", "_", name).strip("_") or "head"
        slug, number = base, 2
        while slug.lower() in {taken.lower() for taken in slugs.values()}:
            slug, number = f"{base}_{number}", number + 1
        slugs[name] = slug
    return slugs
