"""From the config's `dataset`, `labels` and `split` to the rows that a run trains and is scored on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_loader import readers
from data_loader.age import drop_near_boundary, shift_age_boundary
from data_loader.corrections import correct_data_sets
from data_loader.data_sets import check_names, choose_attributes, join_data_sets
from data_loader.duplicates import merge_duplicates
from data_loader.hidden_labels import hide_labels
from data_loader.label_frame import LabelFrame, filter_rows, merge_classes
from data_loader.split import check_leakage, make_fold_split, make_split
from data_loader.split_file import reuse_split
from utils.config import Config, says_where
from utils.config.components import Kind
from utils.config.data_sections import DataSet, NamedDataSet
from utils.errors import ConfigError, UserError

DATASETS = Kind("dataset", (readers,))
Tell = Callable[[str], None]


def _silently(_: str) -> None:
    pass


@dataclass(frozen=True)
class Labels:
    """frame: labels in use (hidden ones in `hidden/…` columns); split: train/valid/test per row."""

    frame: LabelFrame
    split: pd.Series

    def rows(self, split: str) -> list[int]:
        """Row numbers of one split."""
        return [int(row) for row in (self.split == split).to_numpy().nonzero()[0]]


@says_where
def read_frames(config: Config) -> dict[str, LabelFrame]:
    """What each reader gives, with all its attributes, by the name of its data set; '' where there is one."""
    frames = {}
    for place, part in config.data_sets:
        with _named(place, part):
            frames[_title(part)] = DATASETS.build(part, config.where(place))
    return frames


def _in_use(config: Config, frames: Mapping[str, LabelFrame]) -> LabelFrame:
    """One frame with the attributes that are chosen."""
    chosen = dict(frames)
    for place, part in config.data_sets:
        if part.attributes is not None:
            with _named(place, part):
                where = config.where(f"{place}.attributes")
                chosen[_title(part)] = choose_attributes(frames[_title(part)], part.attributes, where)
    return chosen[""] if "" in chosen else join_data_sets(chosen, config.labels.merge or ())


def _title(part: DataSet) -> str:
    return part.title if isinstance(part, NamedDataSet) else ""


@contextlib.contextmanager
def _named(place: str, part: DataSet) -> Iterator[None]:
    """Messages of one of several data sets say which."""
    try:
        yield
    except ConfigError:
        raise
    except UserError as error:
        if not _title(part):
            raise
        text = str(error).replace("dataset.args", f"{place}.args")
        raise UserError(f"data set '{_title(part)}': {text}") from None


@says_where
def read_labels(config: Config, tell: Tell = _silently) -> LabelFrame:
    """The label frame before any split: readers, corrections, attributes, merged classes, filters, duplicates."""
    frames, corrected = read_frames(config), ""
    if config.labels.corrections:
        # Before attributes are chosen: what a row of the file means does not depend on what a run learns.
        frames, corrected = correct_data_sets(frames, config.labels.corrections)
    frame = _in_use(config, frames)
    frame = frame.note(corrected) if corrected else frame
    if config.labels.merge:
        frame = merge_classes(frame, config.labels.merge)
    if config.labels.filters:
        frame = filter_rows(frame, list(config.labels.filters))
    if config.labels.duplicates:
        frame = merge_duplicates(frame, config.labels.duplicates, fingerprint_folder(config), tell)
    return frame


def fingerprint_folder(config: Config) -> Path:
    """Where fingerprints of images are kept: with the decoded images."""
    return Path(config.trainer.save_dir) / ".cache"


@says_where
def draw_split(config: Config, frame: LabelFrame) -> tuple[pd.Series, str]:
    """The split that the config's `split` asks for, and a line for the log where it is not simply drawn."""
    wanted = config.split
    parts = [part for _, part in config.data_sets if isinstance(part, NamedDataSet)]
    only_train = [part.title for part in parts if part.split == "train"]
    if wanted.from_file is not None:
        return reuse_split(Path(wanted.from_file), frame, only_train)
    stratify = None if wanted.stratify is None else list(wanted.stratify)
    if wanted.folds is not None and wanted.fold is not None:
        split = make_fold_split(frame, wanted.folds, wanted.fold, wanted.test, stratify, wanted.seed, only_train)
        return split, f"split: fold {wanted.fold} of {wanted.folds} is for validation; split.valid is not used"
    return make_split(frame, wanted.valid, wanted.test, stratify, wanted.seed, only_train), ""


@says_where
def prepare_labels(config: Config, split: pd.Series | None = None, hide: bool = True, tell: Tell = _silently) -> Labels:
    """Labels of a run; `split` re-uses a saved one; `hide` False keeps the labels that `labels.train` and
    `labels.labeled` change or set aside for training. tell: of work that takes time.

    Raises UserError for anything wrong with the data or its settings.
    """
    frame = read_labels(config, tell)
    if split is None:
        split, note = _draw_or_explain(config, frame)
        frame = frame.note(note) if note else frame
    check_leakage(frame, split)
    if hide and config.labels.train is not None:
        if config.labels.train.age_boundaries is not None:
            frame = shift_age_boundary(frame, split, config.labels.train.age_boundaries)
        frame = drop_near_boundary(frame, split, config.labels.train.drop_ages)
    return Labels(_hide(config, frame, split) if hide else frame, split)


def _draw_or_explain(config: Config, frame: LabelFrame) -> tuple[pd.Series, str]:
    """`draw_split`, whose error comes with the warnings about the data, which may be the reason."""
    try:
        return draw_split(config, frame)
    except UserError as error:
        raise type(error)("\n".join([str(error), *(n for n in frame.history if n.startswith("warning"))])) from None


def _hide(config: Config, frame: LabelFrame, split: pd.Series) -> LabelFrame:
    labeled = config.labels.labeled
    if labeled is None:
        return frame
    if not isinstance(labeled, dict):
        return hide_labels(frame, split, labeled.model_dump())
    check_names(frame, labeled, config.where("labels.labeled"))
    for name, wanted in labeled.items():
        frame = hide_labels(frame, split, wanted.model_dump(), data_set=name)
    return frame
