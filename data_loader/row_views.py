"""A view for each row: that of its class where the config names one, the common one for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_loader.label_frame import LabelFrame, rows_with
from data_loader.views import Spec, View
from utils.config import Config

Of = Mapping[str, Mapping[str, Spec]]


class RowViews:
    """views: of one size, the common one first. which: int64 [rows of the label frame], each row's place in `views`."""

    def __init__(self, views: Sequence[View], which: np.ndarray):
        self.views, self.which = views, which
        self.height, self.width = views[0].height, views[0].width

    def of(self, row: int) -> View:
        return self.views[self.which[row]]


def unused_views(config: Config, frame: LabelFrame, train: np.ndarray) -> list[str]:
    """Notes about views that no training row gets, since none is of their class or an earlier one has them all."""
    views = train_views(config, frame)
    if not isinstance(views, RowViews):
        return []
    names = [
        f"{column}.{value}" for column, of in (config.to_dict()["views"]["train_of"] or {}).items() for value in of
    ]
    counts = np.bincount(views.which[train], minlength=len(views.views))[1:]
    return [f"warning: views.train_of.{name}: no training image gets it" for name, n in zip(names, counts) if not n]


def train_views(config: Config, frame: LabelFrame) -> View | RowViews:
    """`views.train`, and for the rows that `views.train_of` names theirs; of several the first.

    Raises UserError for a column or a value that is not there.
    """
    specs, size, where = config.to_dict()["views"], config.views.shape, config.where("views.train_of")
    views = [View(specs["train"], size, config.where("views.train"))]
    which = np.zeros(len(frame), dtype=np.int64)
    of: Of = specs["train_of"] or {}
    for column, of_values in of.items():
        for value, spec in of_values.items():
            which[rows_with(frame, column, value, where) & (which == 0)] = len(views)
            views.append(View(spec, size, f"{where}.{column}.{value}"))
    return RowViews(views, which) if len(views) > 1 else views[0]
