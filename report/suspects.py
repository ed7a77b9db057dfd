"""Labels that models which have not seen them contradict (confident learning: Northcutt, Jiang & Chuang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from report.evaluation import HeadPrediction
from utils.errors import UserError
from utils.joint import JOINT


@dataclass(frozen=True)
class Suspect:
    """rows: of the predictions, one, or all of a group. p_label, p_predicted: probabilities of the two classes."""

    rows: tuple[int, ...]
    field: str
    label: str
    predicted: str
    p_label: float
    p_predicted: float


def read_predictions(file: Path) -> tuple[pd.Series, list[HeadPrediction]]:
    """The paths and the heads of an oof.csv or predictions.csv, without images that the model was trained on: it has
    learned their labels, also the wrong ones. Raises UserError for another table, or if none is left."""
    try:
        table = pd.read_csv(file, keep_default_na=False, encoding="utf-8", encoding_errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a table of predictions ({error})") from None
    table.columns = table.columns.astype(str)
    if "split" in table:
        table = table[table["split"] != "train"].reset_index(drop=True)
        if not len(table):
            raise UserError(
                f"{file}: the model was trained on all of these images, so it agrees with their labels; use the "
                "oof.csv of train.py --folds, or predictions of other images (test.py --split valid)"
            )
    names = [column.removesuffix("/label") for column in table.columns if column.endswith("/label")]
    heads = [_head(table, name) for name in names if any(column.startswith(f"{name}/p/") for column in table.columns)]
    if "path" not in table or not heads:
        raise UserError(
            f"{file}: expected the columns path, HEAD/label and HEAD/p/CLASS, as in the oof.csv of train.py --folds or "
            "the predictions.csv of test.py"
        )
    return table["path"].astype(str), heads


def _head(table: pd.DataFrame, name: str) -> HeadPrediction:
    start = f"{name}/p/"
    columns = [column for column in table.columns if column.startswith(start)]
    classes = tuple(column.removeprefix(start) for column in columns)
    number = {text: index for index, text in enumerate(classes)}
    labels = table[f"{name}/label"].astype(str).map(number).fillna(-1).to_numpy(np.int64)
    return HeadPrediction(name, classes, labels, table[columns].to_numpy(np.float64))


def apart(head: HeadPrediction, parts: Sequence[str]) -> list[HeadPrediction]:
    """The heads that a joint one is made of, by its classes `wear/male/<30`; another one as it is."""
    pieces = [name.split("/") for name in head.classes]
    if head.name != JOINT or any(len(piece) != len(parts) for piece in pieces):
        return [head]
    found = []
    for place, part in enumerate(parts):
        names = tuple(dict.fromkeys(piece[place] for piece in pieces))
        of_class = np.array([names.index(piece[place]) for piece in pieces])
        probs = np.stack([head.probs[:, of_class == index].sum(axis=1) for index in range(len(names))], axis=1)
        found.append(HeadPrediction(part, names, np.where(head.labels >= 0, of_class[head.labels], -1), probs))
    return found


def by_group(head: HeadPrediction, groups: Sequence[str]) -> tuple[HeadPrediction, list[tuple[int, ...]]]:
    """One row for each group, with the mean of its predictions, if the images of a group never differ in their label;
    else each image for itself. Returns the rows of each too."""
    number, names = pd.factorize(pd.Series(list(groups)))
    labels = pd.Series(np.where(head.labels >= 0, head.labels, np.nan)).groupby(number)
    if (labels.nunique() > 1).any() or len(names) == len(head.labels):
        return head, [(row,) for row in range(len(head.labels))]
    probs = pd.DataFrame(head.probs).groupby(number).mean().to_numpy()
    rows = [tuple(int(row) for row in np.flatnonzero(number == index)) for index in range(len(names))]
    return replace(head, labels=labels.first().fillna(-1).to_numpy(np.int64), probs=probs, decided=None), rows


def find_suspects(head: HeadPrediction, rows: Sequence[tuple[int, ...]]) -> list[Suspect]:
    """Labels off the diagonal of the confident joint, those first whose class is least probable beside the other.

    A class is a candidate for a row if its probability is at least the mean probability that it has where it is the
    label; the label is suspect if the most probable candidate is another class. rows: what each row of `head` stands
    for.
    """
    labeled = np.flatnonzero(head.labels >= 0)
    probs, labels = head.probs[labeled], head.labels[labeled]
    usual = np.array(
        [probs[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(len(head.classes))]
    )
    candidates = np.where(probs >= usual - 1e-9, probs, -1.0)
    chosen = candidates.argmax(axis=1)
    wrong = np.flatnonzero((candidates.max(axis=1) >= 0) & (chosen != labels))
    margin = probs[wrong, labels[wrong]] - probs[wrong, chosen[wrong]]
    return [
        Suspect(
            rows[labeled[row]],
            head.name,
            head.classes[labels[row]],
            head.classes[chosen[row]],
            float(probs[row, labels[row]]),
            float(probs[row, chosen[row]]),
        )
        for row in wrong[np.argsort(margin, kind="stable")]
    ]
