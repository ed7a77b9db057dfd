"""Which images are scored: those of a split as it was when the models were trained, and none that a model has seen;
and what is known about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from data_loader.age import AGE, BOUNDARIES, YEARS, age_names, boundaries_of
from data_loader.prepare_labels import Labels
from data_loader.split_file import split_digest, valid_label_digests
from report.errors import NEAR_YEARS, Ages
from utils.errors import UserError
from utils.joint import JOINT


class Trained(Protocol):
    """A checkpoint: its file, its run's folder, its classes, and what it knows about its data (path, group, split)."""

    path: Any
    run_dir: Any
    classes: dict[str, tuple[str, ...]]
    data: dict[str, Any]


def choose_rows(labels: Labels, known: dict[str, Any], split: str) -> tuple[np.ndarray, list[str]]:
    """Row numbers of `split` and what is to be said about data that changed since training.

    A row whose image or group was trained on is never in `valid` or `test`; a row that the checkpoint does not know
    is in none of its splits.
    """
    rows, notes = _rows_of(labels, known, split)
    return rows, [*notes, *(started_from(known) if split in ("valid", "test") else [])]


def started_from(known: dict[str, Any]) -> list[str]:
    """About weights that a checkpoint's training started from and that had learned images which it holds back."""
    said = (known.get("weights_saw") or {}).get("said", [])
    return [f"the model started from weights that may know them: {line}" for line in said]


def _rows_of(labels: Labels, known: dict[str, Any], split: str) -> tuple[np.ndarray, list[str]]:
    frame = labels.frame.rows
    everything = np.arange(len(frame))
    if split == "all":
        return everything, []
    if split_digest(labels.frame, labels.split) == known["digest"]:
        notes = _changed_labels(labels, labels.split, known) if split == "valid" else []
        return everything[(labels.split == split).to_numpy()], notes
    stored = dict(zip(known["path"], known["split"]))
    trained_groups = {g for g, s in zip(known["group"], known["split"]) if s == "train"}
    of_row = frame["path"].map(stored)
    chosen = (of_row == split).to_numpy()
    if split != "train":
        chosen = chosen & ~frame["group"].isin(trained_groups).to_numpy()
    new, gone = int(of_row.isna().sum()), len(set(stored) - set(frame["path"]))
    relabeled = _changed_labels(labels, of_row.fillna(""), known) if split == "valid" and not new and not gone else []
    note = (
        f"the data or its split has changed since this model was trained ({new:,} new images, {gone:,} gone); scored "
        f"are the {int(chosen.sum()):,} images that belonged to '{split}' then; --split all scores every labeled image"
    )
    return everything[chosen], [note, *relabeled]


def _changed_labels(labels: Labels, split: pd.Series, known: dict[str, Any]) -> list[str]:
    now, then = valid_label_digests(labels.frame, split), known.get("valid_labels") or {}
    changed = sorted(head for head in then if head != JOINT and now.get(head, then[head]) != then[head])
    said = f"labels of validation images have changed since this model was trained ({', '.join(changed)})"
    return [f"{said}; scored is by today's"] if changed else []


def common_rows(models: Sequence[tuple[Trained, Labels]], split: str) -> tuple[list[np.ndarray], list[str]]:
    """For each model the rows to score, the same images in the same order, and notes for the user.

    They are the images that are in `split` for every model and labeled for a head of one. Raises UserError for models
    whose images are in different folders, if one was trained on another's `valid` or `test` images, and if no labeled
    image is left.
    """
    first, first_labels = models[0]
    chosen: list[pd.Series] = []
    notes: list[str] = []
    for model, labels in models:
        here, there = (tuple(map(str, known.frame.folders.values())) for known in (labels, first_labels))
        if here != there:
            raise UserError(
                f"{model.path}: its images are in {', '.join(here)}, those of {first.path} in "
                f"{', '.join(there)}; models are scored together on the same images only"
            )
        rows, said = choose_rows(labels, model.data, split)
        notes += [note for note in said if note not in notes]
        chosen.append(pd.Series(rows, index=labels.frame.rows["path"].iloc[rows]))
    if split in ("valid", "test"):
        _check_unseen(models, chosen, split)
    shared = [path for path in chosen[0].index if all(path in rows.index for rows in chosen)]
    rows_of = [rows[shared].to_numpy(np.int64) for rows in chosen]
    labeled = np.zeros(len(shared), dtype=bool)
    for (model, labels), rows in zip(models, rows_of):
        labeled |= (labels.frame.rows[list(model.classes)].iloc[rows] >= 0).any(axis=1).to_numpy()
    if not labeled.any():
        names = ", ".join(str(model.path) for model, _ in models)
        strange = ""
        if not first_labels.frame.rows["path"].isin(first.data["path"]).any():
            folders = ", ".join(map(str, first_labels.frame.folders.values()))
            strange = f"; it was trained on none of the images in {folders}: score them with --split all"
        of_all = " of all" * (len(models) > 1)
        raise UserError(f"{names}: there is no labeled image in the split '{split}'{of_all}{strange}")
    most = max(len(rows) for rows in chosen)
    if len(shared) < most:
        notes.append(f"the checkpoints have different images in '{split}'; scored are the {len(shared):,} of all")
    return [rows[labeled] for rows in rows_of], notes


def known_ages(models: Sequence[tuple[Trained, Labels]], rows: Sequence[np.ndarray], near: int | None) -> Ages | None:
    """Ages in years of the rows and the boundaries of the age classes, from the first model whose data tells both.

    near: `--near-years`; None: the default. Raises UserError if it is negative, or given and there are no such ages.
    """
    if near is not None and near < 0:
        raise UserError(f"--near-years {near}: expected a number of years, at least 0")
    for (model, labels), chosen in zip(models, rows):
        names = model.classes.get(AGE) or dict.fromkeys(n.rpartition("/")[2] for n in model.classes.get(JOINT, ()))
        boundaries = boundaries_of(tuple(names)) if names else None
        if boundaries is not None and YEARS in labels.frame.rows:
            years = pd.to_numeric(labels.frame.rows[YEARS].iloc[chosen], errors="coerce").to_numpy(np.float64)
            return Ages(years, boundaries, NEAR_YEARS if near is None else near)
    if near is not None:
        raise UserError(
            f"--near-years {near}: there are no ages to go by; they need a head '{AGE}' with classes in rising order, "
            f"such as {', '.join(age_names(BOUNDARIES))} (dataset.args.classes), and the years in a column '{YEARS}'"
        )
    return None


def _check_unseen(models: Sequence[tuple[Trained, Labels]], chosen: Sequence[pd.Series], split: str) -> None:
    """Raises UserError if a model was trained on an image, or on its group, that another holds back."""
    for holder, rows in zip(models, chosen):
        groups = pd.Series(holder[1].frame.rows["group"].to_numpy()[rows], index=rows.index)
        for model, _ in models:
            seen = trained_on(model.data, groups)
            if seen.any():
                raise UserError(
                    f"{model.path} was trained on {int(seen.sum()):,} of the {len(rows):,} '{split}' images of "
                    f"{holder[0].path} (such as {rows.index[seen][0]}), so that scores on them would mean nothing; "
                    f"models that are scored together need one split: train with -s split.from="
                    f"{holder[0].run_dir / 'split.csv'}"
                )


def trained_on(known: dict[str, Any], groups: pd.Series) -> np.ndarray:
    """[N] bool; groups: path → group. An image that the model knows counts by the group that it had in training."""
    paths = pd.Series(groups.index)
    its_groups = paths.map(dict(zip(known["path"], known["group"]))).fillna(pd.Series(groups.to_numpy()))
    trained = {group for group, side in zip(known["group"], known["split"]) if side == "train"}
    return its_groups.isin(trained).to_numpy()
