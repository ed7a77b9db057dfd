"""A frozen backbone's features in place of images: computed once for each view of a row, then only read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.base_dataset import Batch, checked, start_worker
from data_loader.decode import DECODING
from data_loader.face_data import FaceData
from data_loader.row_views import RowViews
from data_loader.views import VIEWS
from utils.errors import UserError
from utils.files import atomic_path, encoded
from utils.random_state import sample_seeds

VERSION = 1
_IMAGES = 64  # in a forward pass
_EVALUATION_ROWS = 4096
# A stream's place in the choice of a view.
_STREAM_NUMBER = {"labeled": 11, "unlabeled": 12}


@dataclass(frozen=True)
class Table:
    """Features [rows, views, D] float32; place int64 [rows of the label frame]: where a row is in it, −1 for none."""

    features: np.ndarray
    place: np.ndarray

    def take(self, rows: np.ndarray, view: np.ndarray | int) -> Tensor:
        """[N, D] of `rows`, each in its `view`. Raises IndexError for rows that are not in the table."""
        place = self.place[rows]
        if (place < 0).any():
            raise IndexError(f"no features of row {int(rows[place < 0][0])}")
        return torch.from_numpy(self.features[place, view])


class FeatureData:
    """The batches of a FaceData with features [N, D] for images; they are the same whether read from disk or computed.

    views: 1 for the evaluation view of each row; more for so many draws of the training view, of which each position
    in the stream has one. extract: uint8 [N, h, w, 3] -> float [N, D]. key: what the features depend on besides the
    images and views. folder: where they are kept for the next start; None: in memory only.
    """

    def __init__(
        self,
        data: FaceData,
        extract: Callable[[Tensor], Tensor],
        views: int,
        key: str,
        folder: Path | None,
        tell: Callable[[str], None] = lambda _: None,
    ):
        self.data, self.views, self.extract, self.folder, self.tell = data, views, extract, folder, tell
        self.classes, self.class_counts = data.classes, data.class_counts
        self.images_per_batch = data.images_per_batch
        made_by = f"{VERSION} {VIEWS} {DECODING} {cv2.__version__} {albumentations.__version__}"
        self.key = f"{made_by} {key} {data.config.views.model_dump_json()}"
        self.tables: dict[str, dict[str, Table]] = {"eval": self._tables("eval", data.evaluation_rows("valid"), 1)}
        for name, (stream, _) in data.streams.items():
            rows = stream.may_show()
            if views == 1:
                self.tables[name] = dict.fromkeys(data.dataset.views[name], self._tables("eval", rows, 1)["image"])
            else:
                self.tables[name] = self._tables(name, rows, views)

    def size(self, split: str) -> int:
        return self.data.size(split)

    def steps_per_pass(self) -> int:
        return self.data.steps_per_pass()

    def paths(self, rows: Iterable[int]) -> list[str]:
        return self.data.paths(rows)

    def state_dict(self) -> dict[str, Any]:
        return self.data.state_dict()

    def train_batches(self, start: int, stop: int, first: Mapping[str, int]) -> Iterator[Batch]:
        """As FaceData's, made here: a batch is a few reads from memory."""
        for number in range(start, stop):
            yield self._batch(number, first)

    def first_batch(self) -> Batch:
        return self._batch(0, {})

    def evaluation_batches(self, split: str) -> Iterator[Batch]:
        world = self.data.world
        rows = self.data.evaluation_rows(split)[world.rank :: world.size]
        for at in range(0, len(rows), _EVALUATION_ROWS):
            yield {"eval": self._rows("eval", rows[at : at + _EVALUATION_ROWS], None)}

    def _batch(self, number: int, first: Mapping[str, int]) -> Batch:
        batch, world = {}, self.data.world
        for name, (stream, size) in self.data.streams.items():
            if number >= first.get(name, 0):
                mine = slice(world.rank, None, world.size)
                positions = np.arange(number * size, (number + 1) * size)
                batch[name] = self._rows(name, stream.take(number * size, size)[mine], positions[mine])
        return batch

    def _rows(self, stream: str, rows: np.ndarray, positions: np.ndarray | None) -> dict[str, Any]:
        batch: dict[str, Any] = {"row": torch.from_numpy(rows)}
        for number, (name, table) in enumerate(self.tables[stream].items()):
            view: np.ndarray | int = 0
            if positions is not None and self.views > 1:
                seeds = sample_seeds(self.data.config.seed, _STREAM_NUMBER[stream], number, positions=positions)
                view = seeds % self.views
            batch[name] = table.take(rows, view)
        for name, by_head in self.data.dataset.labels.items():
            batch[name] = {head: torch.from_numpy(values[rows]) for head, values in by_head.items()}
        return batch

    def _tables(self, stream: str, rows: np.ndarray, views: int) -> dict[str, Table]:
        """Of each view that the stream has, from disk or computed and written there."""
        place = np.full(len(self.data.labels.frame), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        if len(rows) == 0:
            return {name: Table(np.empty((0, views, 0), np.float32), place) for name in self.data.dataset.views[stream]}
        if self.folder is None:
            return {name: Table(found, place) for name, found in self._compute(stream, rows, views).items()}
        digest = self._digest(stream, rows, views)
        files = {n: self.folder / f"features-{digest}-{n}.npy" for n in self.data.dataset.views[stream]}
        stored = self._read(files, (len(rows), views))
        if stored is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            stored = self._compute(stream, rows, views)
            for name, found in stored.items():
                with atomic_path(files[name]) as temporary:
                    np.save(temporary, found)
        return {name: Table(found, place) for name, found in stored.items()}

    def _read(self, files: Mapping[str, Path], shape: tuple[int, int]) -> dict[str, np.ndarray] | None:
        """Features of `shape` (rows, views) and D values each; None if a file is missing or, which is said, damaged."""
        found = {}
        for name, file in files.items():
            try:
                found[name] = np.load(file)
                if found[name].shape[:2] != shape or found[name].dtype != np.float32:
                    raise ValueError
            except FileNotFoundError:
                return None
            except (ValueError, EOFError, OSError):
                self.tell(f"features: {file} is damaged, so they are computed anew")
                return None
        return found

    def _compute(self, stream: str, rows: np.ndarray, views: int) -> dict[str, np.ndarray]:
        """Features [rows, views, D] float32 of each view that the stream has."""
        names = list(self.data.dataset.views[stream])
        self.tell(f"features: computing {views * len(names)} view(s) of {len(rows):,} images, once")
        # A view is drawn by its place in the table, so other rows do not change it.
        chunks = _Chunks(self.data, stream, np.repeat(rows, views), np.tile(np.arange(views), len(rows)), views)
        loader = DataLoader(
            chunks,
            batch_size=None,
            num_workers=self.data.workers(),
            worker_init_fn=start_worker,
            generator=torch.Generator().manual_seed(0),  # the global random state stays as it is
        )
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for chunk in loader:
            images: Any = checked(chunk)
            for name in names:
                found[name].append(self.extract(images[name]).float().cpu())
        return {name: torch.cat(parts).reshape(len(rows), views, -1).numpy() for name, parts in found.items()}

    def _digest(self, stream: str, rows: np.ndarray, views: int) -> str:
        drawn = f"{self.data.config.seed} {views}" if views > 1 else ""
        digest = hashlib.sha256(f"{self.key} {stream} {drawn}".encode())
        for path in self.data.paths(rows):
            stat = os.stat(path)
            digest.update(encoded(f"{Path(path).resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
        for view in self.data.dataset.views[stream].values():
            if isinstance(view, RowViews):
                digest.update(view.which[rows].tobytes())
        return digest.hexdigest()[:32]


class _Chunks(Dataset):
    """Images of rows in views, _IMAGES at a time; errors travel as data, as in every dataset here."""

    def __init__(self, data: FaceData, stream: str, rows: np.ndarray, view: np.ndarray, views: int):
        self.dataset: Any = data.dataset
        self.stream, self.rows, self.positions = stream, rows, rows * views + view

    def __len__(self) -> int:
        return -(-len(self.rows) // _IMAGES)

    def __getitem__(self, number: int) -> Any:
        if number >= len(self):
            raise IndexError
        part = slice(number * _IMAGES, (number + 1) * _IMAGES)
        try:
            return self.dataset.fetch(self.stream, self.rows[part], self.positions[part])
        except UserError as error:
            return {"error": str(error)}
