"""Which rows a split deals out together: those of one combination of labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from data_loader.label_frame import LabelFrame
from utils.errors import UserError, did_you_mean

MOST_TEXTS = 50  # of a raw column that is one of class names
_NO_CLASSES = ("path", "group", "split")


def strata_of(frame: LabelFrame, stratify: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """[N] int64: which combination of the labels of `stratify` (None = all attributes) a row has. [N] bool: it has a
    label, of these or of another attribute in use."""
    names = list(frame.attributes if stratify is None else stratify)
    classes = [_class_names(frame, name) for name in names]
    if any(name not in {**frame.classes, **frame.unused} for name in names):
        # The order of such classes is not known; another run, where they are, must draw the same.
        classes = [sorted(of_name) for of_name in classes]
    labels = [_codes(frame, name, of_name) for name, of_name in zip(names, classes)]
    strata = np.unique(np.column_stack([frame.data_sets, *labels]), axis=0, return_inverse=True)[1]
    return strata.reshape(-1), np.logical_or.reduce([frame.labeled.to_numpy(), *(codes >= 0 for codes in labels)])


def _class_names(frame: LabelFrame, name: str) -> Sequence[str]:
    """The classes of an attribute, in use or not, or the texts of a column that has few of them."""
    if name in frame.classes:
        return frame.classes[name]
    raw = [column for column in frame.rows.columns if column not in (*_NO_CLASSES, *frame.classes)]
    texts = [column for column in raw if not pd.api.types.is_numeric_dtype(frame.rows[column])]
    if name not in texts:
        raise UserError(f"split.stratify: no attribute '{name}'{did_you_mean(name, [*frame.classes, *texts])}")
    names = frame.unused.get(name) or list(frame.rows[name].dropna().unique())
    if len(names) > MOST_TEXTS:
        raise UserError(
            f"split.stratify: '{name}' has {len(names):,} different texts; expected a column of class names"
        )
    return names


def _codes(frame: LabelFrame, name: str, classes: Sequence[str]) -> np.ndarray:
    """[N] int64 places in `classes`, -1 where there is no label."""
    place = {label: index for index, label in enumerate(classes)}
    if name in frame.classes:
        return np.array([*(place[label] for label in frame.classes[name]), -1], dtype=np.int64)[frame.rows[name]]
    return frame.rows[name].map(place).fillna(-1).to_numpy(np.int64)
