"""The batches of a run: streams of training samples, and the rows of a split in order."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from base.base_dataset import BaseDataset, Batch, as_is, checked, start_worker
from data_loader.cache import Decoder, Images
from data_loader.crops_mark import kind_of
from data_loader.dataset import FaceDataset
from data_loader.one_of import OneOf, units_of
from data_loader.prepare_labels import Labels
from data_loader.row_views import RowViews, view_of
from data_loader.sampler import EvaluationSampler, StepSampler, Stream, make_stream
from data_loader.split_file import label_digest, split_digest, valid_label_digests
from data_loader.views import View, is_random
from utils.config import Config
from utils.distributed import World
from utils.errors import ConfigError, did_you_mean

_EVALUATION_BATCH = 256


def evaluation_batch(config: Config, processes: int = 1) -> int:
    """Rows of a forward pass without gradient: a few times a training batch, which takes no more memory than that with
    its gradients, so that what trains can be scored; 256 are as fast as more."""
    return max(1, min(_EVALUATION_BATCH, 4 * config.data_loader.batch_size // processes))


class FaceData:
    """streams: {name: {image: key of `views`}}. `labeled` has the training rows with a label, `unlabeled` all of them
    (FixMatch keeps the labeled images among them), `unlabeled_ratio` for each labeled one; `all` has them alone, so
    that no row needs a label. An attribute without classes, of which nothing is known, is no head."""

    def __init__(
        self,
        config: Config,
        labels: Labels,
        images: Images,
        streams: Mapping[str, Mapping[str, str]],
        device: torch.device,
        world: World | None = None,
    ):
        self.config, self.labels, self.device, self.world = config, labels, device, world or World()
        self.num_workers = config.data_loader.num_workers
        frame = labels.frame
        self.classes: Mapping[str, tuple[str, ...]] = frame.heads
        targets = {head: frame.rows[head].to_numpy(np.int64) for head in self.classes}
        hidden = {h: frame.rows[f"hidden/{h}"].to_numpy(np.int64) for h in self.classes if f"hidden/{h}" in frame.rows}
        self._labeled = frame.labeled.to_numpy()
        train = np.asarray(labels.rows("train"), dtype=np.int64)
        self.notes: list[str] = []
        # What the run's first weights have learned: paths, groups, and a line if some of these are held back.
        self.weights_saw: dict[str, list[str]] = {"paths": [], "groups": [], "said": []}
        # Nothing is drawn where there are no streams, and other data may lack the column.
        self._units = self._find_units(train) if streams and config.data_loader.one_per_group else None
        seen = self._distinct(train)[0]
        self.class_counts: Mapping[str, Tensor] = {
            head: torch.bincount(torch.from_numpy(t[seen][t[seen] >= 0]), minlength=len(self.classes[head])).float()
            for head, t in targets.items()
        }
        evaluation = View(config.to_dict()["views"]["eval"], config.views.shape, config.where("views.eval"))
        views = {
            stream: {name: view_of(config, frame, key) for name, key in images.items()}
            for stream, images in streams.items()
        }
        for view in (view for of_stream in views.values() for view in of_stream.values()):
            self.notes += view.unused(train) if isinstance(view, RowViews) else []
        if streams and is_random(evaluation):
            self.notes.append(
                "warning: views.eval changes images at random, so validation scores are those of changed images; name "
                "transforms there that do the same every time, or none"
            )
        given = {"target": targets, "hidden": hidden} if hidden else {"target": targets}
        self.dataset = FaceDataset(images, given, {**views, "eval": {"image": evaluation}}, config.seed)
        self._plain_evaluation = evaluation.steps == [] and not isinstance(images, Decoder)
        self.streams = self._make_streams(train, targets, streams)
        self._evaluation: dict[str, DataLoader] = {}
        self.images_per_batch = sum(size for _, size in self.streams.values())

    def _make_streams(
        self, train: np.ndarray, targets: Mapping[str, np.ndarray], names: Iterable[str]
    ) -> dict[str, tuple[Stream, int]]:
        loader = self.config.data_loader
        batch = loader.batch_size
        if batch % self.world.size:
            raise ConfigError(f"data_loader.batch_size: {batch} rows cannot be shared by {self.world.size} processes")
        streams: dict[str, tuple[Stream, int]] = {}
        if "labeled" in names:
            labeled, one_of = self._distinct(train[self._labeled[train]])
            kind, by = self._sampler()
            joint = np.stack([targets[head][labeled] for head in by])
            _, joint_class = np.unique(joint, axis=1, return_inverse=True)
            data_sets = self.labels.frame.data_sets[labeled]
            sampler = make_stream(kind, labeled, joint_class.reshape(-1), self.config.seed, 1, data_sets, one_of)
            streams["labeled"] = (sampler, batch)
        if "unlabeled" in names:
            rows, one_of = self._distinct(train)
            stream = Stream(rows, self.config.seed, 2, one_of)
            streams["unlabeled"] = (stream, batch * loader.unlabeled_ratio)
        if "all" in names:
            rows, one_of = self._distinct(train)
            streams["all"] = (Stream(rows, self.config.seed, 4, one_of), batch)
        return streams

    def _sampler(self) -> tuple[str, Sequence[str]]:
        """The kind of sampler, and the heads by whose classes it balances."""
        sampler = self.config.data_loader.sampler
        if isinstance(sampler, str):
            return sampler, list(self.classes)
        by = sampler.args.by if sampler.args.by is not None else list(self.classes)
        by = [by] if isinstance(by, str) else by
        for head in by:
            if head not in self.classes:
                place = self.config.where("data_loader.sampler.args.by")
                raise ConfigError(f"{place}: no head '{head}'{did_you_mean(head, self.classes)}")
        return sampler.type, by

    def _find_units(self, train: np.ndarray) -> np.ndarray:
        """[N] int64: rows of which a pass shows one have the same number."""
        key = "data_loader.one_per_group"
        units = units_of(self.labels.frame, self.config.data_loader.one_per_group or {}, self.config.where(key))
        kept = len(np.unique(units[train]))
        end = ": it leaves nothing out" if kept == len(train) else ", others in every pass"
        self.notes.append(f"one_per_group: a pass shows {kept:,} of {len(train):,} training images{end}")
        return units

    def _distinct(self, rows: np.ndarray) -> tuple[np.ndarray, OneOf | None]:
        """The rows that streams draw from: one of each unit."""
        if self._units is None:
            return rows, None
        one_of = OneOf(rows, self._units[rows])
        return one_of.first, one_of

    def steps_per_pass(self) -> int:
        """Batches in one pass over the longest stream."""
        return max(-(-len(stream.rows) // size) for stream, size in self.streams.values())

    def size(self, split: str) -> int:
        """Labeled rows of a split."""
        return len(self.evaluation_rows(split))

    def evaluation_rows(self, split: str) -> np.ndarray:
        """Rows of `split` (or `all`) that have a label, int64."""
        chosen = (
            np.arange(len(self._labeled)) if split == "all" else np.asarray(self.labels.rows(split), dtype=np.int64)
        )
        return chosen[self._labeled[chosen]]

    def train_batches(self, start: int, stop: int, first: Mapping[str, int]) -> Iterator[Batch]:
        """Batches start … stop - 1 of the run; stream NAME is in a batch from number first[NAME] on."""
        sampler = StepSampler(self.streams, start, stop, first, self.world.rank, self.world.size)
        for batch in self._loader(sampler, self.workers()):
            yield checked(batch)

    def first_batch(self) -> Batch:
        """Batch 0 with all streams, made in this process."""
        return checked(self.dataset.__getitems__(next(iter(StepSampler(self.streams, 0, 1, {})))))

    def evaluation_batches(self, split: str) -> Iterator[Batch]:
        """The labeled rows of a split in order, stream `eval`; over several processes each has its share.

        Workers, where they are needed, are started the first time and stay.
        """
        if split not in self._evaluation:
            self._evaluation[split] = self._evaluation_loader(self.evaluation_rows(split), stays=True)
        yield from map(checked, self._evaluation[split])

    def batches_of(self, rows: np.ndarray) -> Iterator[Batch]:
        """Any rows in order, stream `eval`."""
        yield from map(checked, self._evaluation_loader(rows))

    def _evaluation_loader(self, rows: np.ndarray, stays: bool = False) -> DataLoader:
        batch = evaluation_batch(self.config, self.world.size)
        sampler = EvaluationSampler(rows, batch, self.world.rank, self.world.size)
        # Without a pipeline a row is a copy out of the cache: starting workers would cost more.
        return self._loader(sampler, 0 if self._plain_evaluation else self.workers(), stays)

    def workers(self) -> int:
        """`num_workers`; where "auto" was not measured, as in scoring: one on the CPU, up to eight for a GPU."""
        if self.num_workers != "auto":
            return int(self.num_workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.device.type == "cpu":
            return 1 if cores > 1 else 0
        return max(1, min(8, cores // self.world.size - 1))

    def paths(self, rows: Iterable[int]) -> list[str]:
        frame = self.labels.frame
        return [str(frame.file(frame.rows["path"].iloc[row])) for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that no later command scores a training image as validation."""
        return self._state

    @functools.cached_property
    def _state(self) -> dict[str, Any]:
        frame, split = self.labels.frame.rows, self.labels.split
        return {
            "digest": split_digest(self.labels.frame, split),
            "labels": label_digest(self.labels.frame),
            "valid_labels": valid_label_digests(self.labels.frame, split),
            "crops": kind_of(self.labels.frame.folders.values()),
            "path": [str(path) for path in frame["path"]],
            "group": [str(group) for group in frame["group"]],
            "split": [str(name) for name in split],
            "weights_saw": self.weights_saw,
        }

    def _loader(self, sampler: Any, workers: int, stays: bool = False) -> DataLoader:
        dataset: BaseDataset = self.dataset
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=as_is,
            worker_init_fn=start_worker,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
            persistent_workers=stays and workers > 0,
            # Its own generator: starting workers must not move the global random state.
            generator=torch.Generator().manual_seed(self.config.seed),
        )
