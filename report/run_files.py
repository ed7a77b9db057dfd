"""The runs in a folder, from their files alone: config, epochs, split, and what folds say together."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from base.monitor import Monitor
from logger.metrics_csv import complete_lines
from utils.config import config_from_dict
from utils.errors import ConfigError, UserError
from utils.files import encoded
from utils.joint import JOINT
from utils.run_folder import fold_folder, is_being_trained

Epoch = Mapping[str, float]  # a row of metrics.csv, without what was not measured


@dataclass
class Run:
    """A run, or the folds of one config: then `folds` is what folds.json says of them.

    folder: absolute. validated_on: equal for runs that were validated on the same images; of folds, for the same folds.
    valid_labels: per head, equal for runs that were validated by the same labels; empty where that is not known.
    """

    folder: Path
    config: Mapping[str, Any]
    epochs: Sequence[Epoch]
    started: datetime
    validated_on: str
    valid_labels: Mapping[str, str] = field(default_factory=dict)
    folds: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def seed(self) -> str:
        """Runs of one experiment with the same seed may be compared pair by pair."""
        labeled = (self.config.get("labels") or {}).get("labeled") or {}
        return f"{self.config.get('seed')}/{labeled.get('seed')}"

    @cached_property
    def monitor(self) -> Monitor:
        """As it was after the last epoch."""
        trainer = self.config["trainer"]
        monitor = Monitor(trainer["monitor"], trainer["early_stop"])
        warm_up = (trainer.get("args") or {}).get("warm_up_epochs") or 0
        monitor.warm_up = warm_up if warm_up < trainer["epochs"] else 0
        for row in self.epochs:
            monitor.update(int(row["epoch"]), row)
        return monitor

    @cached_property
    def state(self) -> str:
        if is_being_trained(self.folder):
            return "training"
        if self.folds is not None:
            return "finished" if self.folds.get("finished") else "unfinished"
        if self.last_epoch >= self.config["trainer"]["epochs"]:
            return "finished"
        return "stopped early" if self.monitor.exhausted or _says_so(self.folder) else "unfinished"

    def at(self, epoch: int | None) -> Epoch:
        """The row of an epoch; empty where there is none."""
        return next((row for row in self.epochs if int(row["epoch"]) == epoch), {})

    @property
    def last_epoch(self) -> int:
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0

    def heads(self, score: str) -> frozenset[str]:
        """Those that valid/SCORE is made of; empty while nothing is known."""
        columns = [column.split("/") for column in self.columns if column.startswith("valid/")]
        names = {parts[1] for parts in columns if len(parts) == 3 and parts[2] == score}
        names |= set((self.folds or {}).get("mean", ()))
        names = names or {parts[1] for parts in columns if len(parts) > 2}
        return frozenset(names - {JOINT} or names)

    @property
    def columns(self) -> set[str]:
        return {column for row in self.epochs for column in row}


def read_runs(places: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in these folders, each a run, a folder NAME of runs or a SAVE_DIR, the oldest first, and what is wrong
    with those that cannot be read.

    Raises UserError for a place without runs, or if none can be read.
    """
    folders: dict[Path, Path] = {}
    for place in map(Path, map(os.path.abspath, places)):
        if not place.is_dir():
            raise UserError(f"{place}: {'is a file, not a folder of runs' if place.exists() else 'no such folder'}")
        found = sorted(_folders(place), key=lambda folder: (folder.is_symlink(), folder))
        if not found:
            raise UserError(f"{place}: no runs in it; expected a run's folder, saved/NAME, or saved")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    runs, problems = [], []
    for folder in folders.values():
        if not _is_of_folds(folder, folders):
            try:
                runs.append(_read(folder))
            except UserError as error:
                problems.append(str(error))
    if not runs:
        raise UserError("\n".join(problems))
    return sorted(runs, key=lambda run: (run.started, run.name)), problems


def read_epochs(run_dir: Path) -> list[Epoch]:
    """The rows of metrics.csv, none before the first epoch; a torn last one is left out.

    Raises UserError if it is no such table.
    """
    file = run_dir / "metrics.csv"
    if not file.exists():
        return []
    try:
        header, lines = complete_lines(file, file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    rows: list[Epoch] = []
    for number, cells in enumerate(lines, start=2):
        try:
            rows.append({name: float(cell) for name, cell in zip(header, cells, strict=True) if cell})
        except ValueError:
            raise UserError(f"{file}: line {number} is damaged") from None
    return [row for row in rows if "epoch" in row]


def _folders(place: Path) -> Iterator[Path]:
    """The place itself, if it is a run, else the runs in it and in its folders."""
    names = ("config.json", "folds.json")
    if any((place / name).exists() for name in names):
        yield place
        return
    for pattern in ("*/", "*/*/"):
        for folder in {file.parent for name in names for file in place.glob(f"{pattern}{name}")}:
            if not any(part.startswith(".") for part in folder.relative_to(place).parts):
                yield folder


def _is_of_folds(folder: Path, folders: Mapping[Path, Path]) -> bool:
    """Whether the folder is one fold's, and what the folds say together is among `folders`."""
    whole, _, number = folder.name.rpartition("-fold")
    together = folder.with_name(whole or folder.name)
    return number.isdecimal() and together.resolve() in folders and (together / "folds.json").exists()


def _read(folder: Path) -> Run:
    file = folder / "folds.json"
    if not file.exists():
        config = _config({"config": _json(folder / "config.json")}, folder / "config.json")
        return Run(folder, config, read_epochs(folder), _started(folder), _valid_images(folder), _valid_labels(folder))
    known, first = _json(file), fold_folder(folder, 1)
    started = _started(first if first.is_dir() else folder)
    images = f"folds {_valid_images(first)}"
    return Run(folder, _config(known, file), [], started, images, _valid_labels(first), known)


def _config(content: Any, file: Path) -> Mapping[str, Any]:
    """With today's defaults where a version had not the key yet. One that only an older version can read is kept as it
    is, as long as it says what a run must."""
    try:
        config = dict(content["config"])
        Monitor(config["trainer"]["monitor"], config["trainer"]["early_stop"])
        int(config["trainer"]["epochs"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{file}: is not the config of a run of this project") from None
    try:
        return config_from_dict(config, str(file)).to_dict()
    except ConfigError:
        return config


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _started(folder: Path) -> datetime:
    """By environment.json, or the time of the folder's config."""
    seen = folder / "environment.json"
    try:
        return datetime.fromisoformat(_json(seen)["started"]).astimezone(timezone.utc)
    except (UserError, KeyError, TypeError, ValueError):
        file = next((folder / name for name in ("config.json", "folds.json") if (folder / name).exists()), folder)
        return datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)


def _says_so(folder: Path) -> bool:
    """Whether the log ends with an early stop, which older versions counted otherwise."""
    try:
        with (folder / "train.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            return b"early stop:" in file.read()
    except OSError:
        return False


def _valid_labels(folder: Path) -> dict[str, str]:
    """A digest per head; none where it is not known, as in runs of older versions."""
    try:
        return dict(_json(folder / "environment.json")["valid_labels"])
    except (UserError, KeyError, TypeError, ValueError):
        return {}


def _valid_images(folder: Path) -> str:
    """A digest of the validation images' paths; blank where the run has no split.csv yet."""
    file = folder / "split.csv"
    if not file.exists():
        return ""
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            paths = [row["path"] for row in csv.DictReader(lines) if row["split"] == "valid"]
    except (OSError, KeyError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read, or has not the columns path and split ({error})") from None
    return hashlib.sha256(encoded("\n".join(sorted(paths)))).hexdigest()
