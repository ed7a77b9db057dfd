"""A view for each row: that of its class where the config names one, the common one for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_loader.label_frame import LabelFrame, rows_with
from data_loader.views import Spec, View
from utils.config import Config

Of = Mapping[str, Mapping[str, Spec]]


class RowViews:
    """views: of one size, the common one first. which: int64 [rows of the label frame], each row's place in `views`.
    names: of the views but the first, for messages."""

    def __init__(self, views: Sequence[View], which: np.ndarray, names: Sequence[str]):
        self.views, self.which, self.names = views, which, names
        self.height, self.width = views[0].height, views[0].width

    def of(self, row: int) -> View:
        return self.views[self.which[row]]

    def unused(self, rows: np.ndarray) -> list[str]:
        """Warnings about views that none of the rows gets: none is of their class, or an earlier view has them all."""
        counts = np.bincount(self.which[rows], minlength=len(self.views))[1:]
        return [f"warning: {name}: no training image gets it" for name, count in zip(self.names, counts) if not count]


def view_of(config: Config, frame: LabelFrame, key: str) -> View | RowViews:
    """The view `views.KEY`; of `train` with that of `views.train_of` for the rows that it names, of several the first.

    Raises UserError for a column or a value that is not there.
    """
    specs, size, where = config.to_dict()["views"], config.views.shape, config.where("views.train_of")
    views = [View(specs[key], size, config.where(f"views.{key}"))]
    which, names = np.zeros(len(frame), dtype=np.int64), list[str]()
    of: Of = (specs["train_of"] or {}) if key == "train" else {}
    for column, of_values in of.items():
        for value, spec in of_values.items():
            which[rows_with(frame, column, value, where) & (which == 0)] = len(views)
            views.append(View(spec, size, f"{where}.{column}.{value}"))
            names.append(f"views.train_of.{column}.{value}")
    return RowViews(views, which, names) if names else views[0]
