"""Runs side by side: what each came to, and what was changed. From the files of their folders alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from base.monitor import Monitor
from utils.config import ABSENT, Change, is_about, tree_changes
from utils.errors import UserError, did_you_mean
from utils.files import encoded
from utils.joint import JOINT
from utils.run_folder import fold_folder, is_being_trained

SEEDS = ("seed", "labels.labeled.seed")
# What does not make an experiment another one.
UNIMPORTANT = (
    "$schema", "about", "name", "logger", "data_loader.num_workers", "data_loader.cache", "trainer.keep_last",
    "trainer.save_dir", "split.fold",
)  # fmt: skip
FINISHED = ("finished", "stopped early")
FALLING = ("loss", "ece", "nll")


@dataclass
class Run:
    """A run, or the folds of one config: then `folds` is what folds.json says of them."""

    folder: Path
    config: Mapping[str, Any]
    epochs: pd.DataFrame
    started: str
    folds: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def seed(self) -> str:
        """Runs of one experiment with the same seed may be compared pair by pair."""
        labeled = self.config.get("labels", {}).get("labeled") or {}
        return f"{self.config.get('seed')}/{labeled.get('seed')}"

    @cached_property
    def monitor(self) -> Monitor:
        """As it was after the last epoch."""
        monitor = Monitor(self.config["trainer"]["monitor"], self.config["trainer"]["early_stop"])
        for row in self.epochs.to_dict("records"):
            monitor.update(int(row["epoch"]), {str(name): value for name, value in row.items() if not pd.isna(value)})
        return monitor

    @property
    def state(self) -> str:
        if is_being_trained(self.folder):
            return "training"
        if self.folds is not None:
            return "finished" if self.folds["finished"] else "unfinished"
        if self.last_epoch >= self.config["trainer"]["epochs"]:
            return "finished"
        return "stopped early" if self.monitor.exhausted else "unfinished"

    @cached_property
    def validated_on(self) -> str:
        """Equal for runs that were validated on the same images; of folds, for the same folds."""
        folder = self.folder if self.folds is None else fold_folder(self.folder, 1)
        file = folder / "split.csv"
        if not file.exists():
            return ""
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8", encoding_errors="surrogateescape")
        paths = "\n".join(sorted(table["path"][table["split"] == "valid"]))
        return f"{self.folds is not None} {hashlib.sha256(encoded(paths)).hexdigest()}"

    def heads(self, score: str) -> set[str]:
        """Those that valid/SCORE is the mean of; empty while nothing is known."""
        columns = [str(column).split("/") for column in self.epochs]
        names = {parts[1] for parts in columns if len(parts) == 3 and (parts[0], parts[2]) == ("valid", score)}
        names |= set((self.folds or {}).get("mean", ()))
        return names - {JOINT} or names

    @property
    def last_epoch(self) -> int:
        return 0 if self.epochs.empty else int(self.epochs["epoch"].iloc[-1])


@dataclass
class Entry:
    """A row of the table. best, last: scores, NaN where there are none; spread: of the folds."""

    run: Run
    best: float
    last: float
    best_epoch: int | None = None
    spread: float | None = None
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """metric: by default what most of the runs choose their best epoch by. reference: the run that changes are told
    from, by default the oldest. entries: a row for each run, the best first."""

    metric: str
    reference: Run
    entries: Sequence[Entry]


def read_runs(places: Sequence[Path]) -> list[Run]:
    """The runs in these folders, each a run, a folder NAME of runs or a SAVE_DIR; the oldest first.

    Raises UserError for a place without runs, or a run whose files are damaged.
    """
    found: dict[Path, Run] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: {'is a file, not a folder of runs' if place.exists() else 'no such folder'}")
        folders = next((level for level in _levels(place) if level), None)
        if folders is None:
            raise UserError(f"{place}: no runs in it; expected a run's folder, saved/NAME, or saved")
        found.update({folder.resolve(): _read(folder) for folder in folders if not _is_of_folds(folder, folders)})
    return sorted(found.values(), key=lambda run: (run.started, run.name))


def read_epochs(run_dir: Path) -> pd.DataFrame:
    """metrics.csv, or an empty table before the first epoch. Raises UserError if it is damaged."""
    file = run_dir / "metrics.csv"
    try:
        return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["epoch", "step"])
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).strip()})") from None


def score_of(epochs: pd.DataFrame, metric: str, epoch: int) -> float:
    """A value of an epoch; NaN where it was not measured."""
    rows = epochs[epochs["epoch"] == epoch] if metric in epochs else epochs[:0]
    return float(rows[metric].iloc[-1]) if len(rows) else math.nan


def compare(runs: Sequence[Run], metric: str | None = None, against: Path | None = None) -> Comparison:
    """Raises UserError if `against` is none of the runs, or none has the metric."""
    known = [run.monitor.name for run in runs]
    name = metric or max(dict.fromkeys(known), key=known.count)
    sign = _sign(name, runs)
    reference = _reference(runs, against)
    entries = [_entry(run, name) for run in runs]
    for entry in entries:
        changes = tree_changes(reference.config, entry.run.config)
        entry.changes = [change for change in changes if not is_about(str(change), UNIMPORTANT)]
    if all(pd.isna(entry.best) for entry in entries) and metric is not None:
        there = sorted({column for run in runs for column in run.epochs.columns if column.startswith("valid/")})
        raise UserError(f"--metric {metric}: no run has it{did_you_mean(metric, there)}")
    return Comparison(name, reference, sorted(entries, key=lambda entry: (pd.isna(entry.best), -sign * entry.best)))


def experiments(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Finished runs that differ in nothing but the seed and were validated on the same images, where there are several;
    in the order of `entries`."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.run.state not in FINISHED or math.isnan(entry.best):
            continue
        changes = [str(change) for change in entry.changes if change.key not in SEEDS]
        groups.setdefault(json.dumps([changes, entry.run.validated_on]), []).append(entry)
    return [group for group in groups.values() if len(group) > 1]


def table_of(compared: Comparison) -> pd.DataFrame:
    """For a CSV: a row per run with its scores, and a column for every key in which runs differ, its values as JSON."""
    entries = compared.entries
    before = {change.key: change.before for entry in entries for change in entry.changes}
    rows = []
    for entry in entries:
        run, after = entry.run, {change.key: change.after for change in entry.changes}
        whole = [f"{key}." for key in after]
        values = {
            key: after.get(key, ABSENT if any(key.startswith(start) for start in whole) else before[key])
            for key in sorted(before)
        }
        rows.append(
            {
                "run": run.name, "folder": str(run.folder), "started": run.started, "state": run.state,
                "epochs": run.last_epoch, "metric": compared.metric, "best": entry.best, "best_epoch": entry.best_epoch,
                "last": entry.last, "folds_std": entry.spread, **values,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _levels(place: Path) -> Iterator[list[Path]]:
    """The runs that a folder is, then those right in it, then those in its folders."""
    for pattern in ("", "*/", "*/*/"):
        files = [file for name in ("config.json", "folds.json") for file in place.glob(f"{pattern}{name}")]
        yield sorted({file.parent for file in files if not file.parent.name.startswith(".")})


def _is_of_folds(folder: Path, folders: Sequence[Path]) -> bool:
    """Whether the folder is one fold's, and what the folds say together is among `folders`."""
    whole, _, number = folder.name.rpartition("-fold")
    together = folder.with_name(whole or folder.name)
    return number.isdecimal() and together in folders and (together / "folds.json").exists()


def _read(folder: Path) -> Run:
    folds = folder / "folds.json"
    if folds.exists():
        known = _json(folds)
        seen = fold_folder(folder, 1) / "environment.json"
        return Run(folder, _config(known, folds), pd.DataFrame(), _started(seen, folds), known)
    config, seen = folder / "config.json", folder / "environment.json"
    return Run(folder, _config({"config": _json(config)}, config), read_epochs(folder), _started(seen, config))


def _config(content: Any, file: Path) -> Mapping[str, Any]:
    """What all versions have in common is enough, so that runs of older ones can be compared."""
    try:
        config = content["config"]
        str(config["trainer"]["monitor"]).split()[1], int(config["trainer"]["epochs"]), config["trainer"]["early_stop"]
    except (KeyError, TypeError, ValueError, IndexError):
        raise UserError(f"{file}: is not the config of a run of this project") from None
    return dict(config)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _started(seen: Path, otherwise: Path) -> str:
    """The date and time to the second, as a run's environment.json has it."""
    started = _json(seen).get("started") if seen.exists() else None
    return str(started or datetime.fromtimestamp(otherwise.stat().st_mtime).isoformat())[:19]


def _sign(metric: str, runs: Sequence[Run]) -> int:
    modes = [run.monitor.mode for run in runs if run.monitor.name == metric]
    falls = modes[0] == "min" if modes else metric.rpartition("/")[2] in FALLING
    return -1 if falls else 1


def _reference(runs: Sequence[Run], against: Path | None) -> Run:
    if against is None:
        return runs[0]
    for run in runs:
        if run.folder.resolve() == against.resolve() or run.name == str(against):
            return run
    raise UserError(f"--against {against}: is none of these runs{did_you_mean(str(against), [r.name for r in runs])}")


def _entry(run: Run, metric: str) -> Entry:
    """By the epoch that the run itself chose, which is what its best.pth holds."""
    if run.folds is not None:
        return _of_folds(run, run.folds, metric)
    if run.epochs.empty:
        return Entry(run, math.nan, math.nan)
    best_epoch = run.monitor.best_epoch or run.last_epoch
    best, last = (score_of(run.epochs, metric, epoch) for epoch in (best_epoch, run.last_epoch))
    return Entry(run, best, last, best_epoch)


def _of_folds(run: Run, folds: Mapping[str, Any], metric: str) -> Entry:
    """Mean and spread over the folds; of several heads the mean of their means, as in metrics.csv."""
    split, *rest = metric.split("/")
    heads = rest[:-1] or sorted(run.heads(rest[-1]))
    means = [folds["mean"].get(head, {}).get(rest[-1]) for head in heads] if split == "valid" else []
    if not means or None in means:
        return Entry(run, math.nan, math.nan)
    spread = folds["std"][heads[0]][rest[-1]] if len(heads) == 1 else None
    return Entry(run, sum(means) / len(means), math.nan, spread=spread)
