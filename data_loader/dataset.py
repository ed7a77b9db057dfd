"""A label frame's images and labels as batches of views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from base.base_dataset import BaseDataset
from data_loader.cache import Images
from data_loader.row_views import RowViews
from data_loader.views import View
from utils.random_state import sample_seeds

# A view's place in a sample's seed; fixed numbers, so that adding a stream changes no other's augmentation.
_STREAM_NUMBER = {"labeled": 1, "unlabeled": 2, "eval": 3, "all": 4}


class FaceDataset(BaseDataset):
    """images: decoded rows; labels: {name: {head: int64 [rows]}}, e.g. `target` and `hidden`;
    views: {stream: {name: View}}, e.g. {"unlabeled": {"weak": …, "strong": …}}."""

    def __init__(
        self,
        images: Images,
        labels: Mapping[str, Mapping[str, np.ndarray]],
        views: Mapping[str, Mapping[str, View | RowViews]],
        seed: int,
    ):
        self.images, self.labels, self.views, self.seed = images, labels, views, seed

    def fetch(self, stream: str, rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        batch: dict[str, Any] = {"row": torch.from_numpy(rows.astype(np.int64))}
        sources = [self.images[row] for row in rows]
        for number, (name, view) in enumerate(self.views[stream].items()):
            seeds = sample_seeds(self.seed, _STREAM_NUMBER[stream], number, positions=positions)
            out = np.empty((len(rows), view.height, view.width, 3), np.uint8)
            for i, (row, source, seed) in enumerate(zip(rows, sources, seeds)):
                out[i] = view.of(row)(source, int(seed))
            batch[name] = torch.from_numpy(out)
        for name, by_head in self.labels.items():
            batch[name] = {head: torch.from_numpy(values[rows]) for head, values in by_head.items()}
        return batch
