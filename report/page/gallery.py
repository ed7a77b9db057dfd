"""The pictures worth a look: the surest mistakes of each kind, and the right answers that were nearly wrong."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from report.evaluation import HeadPrediction

MOST_PER_CELL = 24
LEAST_PER_CELL = 6
MOST_PICTURES = 360
SIDE = 128

Thumb = tuple[str, str | None, str]
"""(path, data URI or None where the file is missing or no image, URI of the file)."""
Explain = Callable[[str, np.ndarray, np.ndarray], Sequence[np.ndarray]]
"""(head, rows, classes) -> for each row RGB uint8 [H, W, 3]: what of the image speaks for that class."""


@dataclass(frozen=True)
class Picture:
    """One thumbnail; `data` is a data URI, or None where the file is missing or no image; `link` the file's URI;
    `explained` a data URI of what of the image speaks for the prediction."""

    path: str
    data: str | None
    link: str
    confidence: float
    detail: str
    explained: str | None = None


@dataclass(frozen=True)
class Cell:
    """The pictures of one cell of the confusion matrix; `count` is how many images it holds in all."""

    true: int
    predicted: int
    count: int
    pictures: list[Picture]


def error_cells(
    head: HeadPrediction, paths: pd.Series, root: Path | Mapping[str, Path], explain: Explain | None = None
) -> tuple[list[Cell], int]:
    """The wrong cells with most images first, the most confident mistakes first in each.

    At most 24 pictures a cell, fewer where there are many cells, so that the page stays of a readable size. Also
    returns how many cells had to be left out.
    """
    wrong = np.flatnonzero(head.labeled & (head.predictions != head.labels))
    pairs = head.labels[wrong] * len(head.classes) + head.predictions[wrong]
    kinds, counts = np.unique(pairs, return_counts=True)
    order = np.argsort(-counts, kind="stable")[: MOST_PICTURES // LEAST_PER_CELL]
    most = int(np.clip(MOST_PICTURES // max(len(order), 1), LEAST_PER_CELL, MOST_PER_CELL))
    cells = []
    for kind, count in zip(kinds[order], counts[order]):
        rows = wrong[pairs == kind]
        surest = rows[np.argsort(-head.confidence[rows], kind="stable")][:most]
        true, predicted = divmod(int(kind), len(head.classes))
        cells.append(Cell(true, predicted, int(count), _pictures(head, surest, paths, root, explain)))
    return cells, len(kinds) - len(order)


def unsure_right(
    head: HeadPrediction, paths: pd.Series, root: Path | Mapping[str, Path], explain: Explain | None = None
) -> list[Picture]:
    """Right predictions, least confident first."""
    right = np.flatnonzero(head.labeled & (head.predictions == head.labels))
    least = right[np.argsort(head.confidence[right], kind="stable")][:MOST_PER_CELL]
    return _pictures(head, least, paths, root, explain)


def _pictures(
    head: HeadPrediction,
    rows: np.ndarray,
    paths: pd.Series,
    root: Path | Mapping[str, Path],
    explain: Explain | None,
) -> list[Picture]:
    pictures = []
    shown: Sequence[np.ndarray | None] = [None] * len(rows)
    if explain is not None and len(rows):
        shown = explain(head.name, rows, head.predictions[rows])
    for row, explained in zip(rows, shown):
        path = str(paths.iloc[row])
        probs = head.probs[row]
        top = np.argsort(-probs, kind="stable")[:3]
        detail = "\n".join([path, *(f"{head.classes[i]}: {probs[i]:.3f}" for i in top)])
        file = _file(path, root)
        seen = None if explained is None else picture_of(explained)
        pictures.append(Picture(path, thumbnail(file), file.as_uri(), float(head.confidence[row]), detail, seen))
    return pictures


def _file(path: str, root: Path | Mapping[str, Path]) -> Path:
    if not isinstance(root, Mapping):
        return Path(root).absolute() / path
    name, _, inner = path.partition("/")
    return root[name].absolute() / inner


def thumb(path: str, file: Path) -> Thumb:
    """What a page shows of the image `path`."""
    file = file.absolute()
    return path, thumbnail(file), file.as_uri()


def thumbnail(file: Path) -> str | None:
    """A JPEG of at most 128 pixels a side as a data URI; None where the file is missing or no image."""
    try:
        data = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    except OSError:
        return None
    image = _decode(data)
    return None if image is None else _data_uri(_small(image))


def picture_of(image: np.ndarray) -> str:
    """image: RGB uint8 [H, W, 3]. Returns a data URI as `thumbnail` does."""
    return _data_uri(_small(cv2.cvtColor(image, cv2.COLOR_RGB2BGR)))


def _small(image: np.ndarray) -> np.ndarray:
    scale = SIDE / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image


def _data_uri(image: np.ndarray) -> str:
    """image: BGR uint8 [H, W, 3]."""
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _decode(data: np.ndarray) -> np.ndarray | None:
    """BGR uint8 [H, W, 3]; large photos are decoded at a quarter of their size, which is several times faster."""
    try:
        image = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_4)
        if image is not None and max(image.shape[:2]) < SIDE:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return image
