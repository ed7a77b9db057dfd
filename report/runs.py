"""Runs side by side: what each came to, and what was changed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from report.run_files import Run
from utils.config import ABSENT, Change, is_about, tree_changes
from utils.errors import UserError, did_you_mean

SEEDS = ("seed", "labels.labeled.seed")
# What does not make an experiment another one.
UNIMPORTANT = (
    "$schema", "about", "name", "logger", "data_loader.num_workers", "data_loader.cache", "trainer.keep_last",
    "trainer.save_dir", "trainer.speed", "split.fold",
)  # fmt: skip
FINISHED = ("finished", "stopped early")
FALLING = re.compile("loss|ece|nll")


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

    def labels_of(self, run: Run) -> list[str]:
        """What the labels that the metric is made of are told apart by, as far as it is known here and of the
        reference."""
        split, *rest = self.metric.split("/")
        heads = run.heads(rest[0]) if len(rest) == 1 else rest[:1]
        both = [head for head in heads if split == "valid" and head in self.reference.valid_labels]
        return [run.valid_labels.get(head, self.reference.valid_labels[head]) for head in sorted(both)]

    def caveats(self, run: Run) -> list[str]:
        """Why a run's score cannot be compared with the reference's."""
        found = []
        if run.validated_on != self.reference.validated_on:
            found.append("! validated on other images")
        elif self.labels_of(run) != self.labels_of(self.reference):
            found.append("! validated by other labels")
        split, *rest = self.metric.split("/")
        if split == "valid" and len(rest) == 1:
            heads, other = run.heads(rest[0]), self.reference.heads(rest[0])
            if heads and other and heads != other:
                found.append(f"! of other heads ({', '.join(sorted(heads))}); see --metric")
        return found


@dataclass(frozen=True)
class Experiment:
    """Finished runs that differ in nothing but the seed, one for each seed; changes: from the reference."""

    entries: Sequence[Entry]
    changes: Sequence[Change]
    caveats: Sequence[str]


def compare(runs: Sequence[Run], metric: str | None = None, against: Path | None = None) -> Comparison:
    """Raises UserError if `against` is none of the runs, or none has the metric."""
    known = [run.monitor.name for run in runs]
    name = metric or max(dict.fromkeys(known), key=known.count)
    sign = _sign(name, runs)
    reference = _reference(runs, against)
    entries = [_entry(run, name) for run in runs]
    for entry in entries:
        changes = tree_changes(reference.config, entry.run.config)
        entry.changes = [c for c in changes if not is_about(str(c), UNIMPORTANT) and not _is_measured(c)]
    measured = any(name in run.columns for run in runs) or not all(math.isnan(entry.best) for entry in entries)
    if metric is not None and not measured:
        there = sorted({column for run in runs for column in run.columns if column.startswith("valid/")})
        raise UserError(f"--metric {metric}: no run has it{did_you_mean(metric, there)}")
    order = sorted(entries, key=lambda entry: (math.isnan(entry.best), -sign * entry.best))
    return Comparison(name, reference, order)


def _is_measured(change: Change) -> bool:
    """A number format that one run has found out and the other, as the folds' common config, leaves open."""
    return change.key == "trainer.precision" and '"auto"' in (change.before, change.after)


def experiments(compared: Comparison) -> list[Experiment]:
    """Those that were run with several seeds; of runs that are equal, the newest."""
    groups: dict[str, dict[str, Entry]] = {}
    for entry in compared.entries:
        if entry.run.state in FINISHED and not math.isnan(entry.best):
            changes = [str(change) for change in _without_seeds(entry)]
            of_metric = sorted(entry.run.heads(compared.metric.rpartition("/")[2]))
            of_seed = groups.setdefault(
                json.dumps([changes, entry.run.validated_on, compared.labels_of(entry.run), of_metric]), {}
            )
            before = of_seed.setdefault(entry.run.seed, entry)
            if entry.run.started > before.run.started:
                of_seed[entry.run.seed] = entry
    found = []
    for of_seed in groups.values():
        first = next(iter(of_seed.values()))
        if len(of_seed) > 1:
            found.append(Experiment(list(of_seed.values()), _without_seeds(first), compared.caveats(first.run)))
    return found


def table_of(compared: Comparison) -> pd.DataFrame:
    """For a CSV: a row per run with its scores, and a column for every key in which runs differ, its values as JSON."""
    keys = sorted({change.key for entry in compared.entries for change in entry.changes})
    rows = []
    for entry in compared.entries:
        run = entry.run
        rows.append(
            {
                "run": run.name, "folder": str(run.folder), "started": run.started.isoformat(), "state": run.state,
                "epochs": run.last_epoch, "metric": compared.metric, "best": entry.best, "best_epoch": entry.best_epoch,
                "last": entry.last, "folds_std": entry.spread, **{key: _value(run.config, key) for key in keys},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _without_seeds(entry: Entry) -> list[Change]:
    return [change for change in entry.changes if change.key not in SEEDS]


def _value(config: Any, key: str) -> str:
    for part in re.findall(r"[^.\[\]]+", key):
        try:
            config = config[int(part)] if isinstance(config, list) else config[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return ABSENT
    return json.dumps(config, ensure_ascii=False)


def _sign(metric: str, runs: Sequence[Run]) -> int:
    modes = [run.monitor.mode for run in runs if run.monitor.name == metric]
    falls = modes[0] == "min" if modes else FALLING.search(metric.rpartition("/")[2])
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
    best_epoch = run.monitor.best_epoch or None
    best, last = (run.at(epoch).get(metric, math.nan) for epoch in (best_epoch, run.last_epoch))
    return Entry(run, best, last, best_epoch)


def _of_folds(run: Run, folds: Mapping[str, Any], metric: str) -> Entry:
    """Mean and spread over the folds; of several heads the mean of their means, as in metrics.csv."""
    split, *rest = metric.split("/")
    if split != "valid" or not 1 <= len(rest) <= 2:
        return Entry(run, math.nan, math.nan)
    heads = rest[:-1] or sorted(run.heads(rest[-1]))
    means = [folds.get("mean", {}).get(head, {}).get(rest[-1]) for head in heads]
    if not means or None in means:
        return Entry(run, math.nan, math.nan)
    spread = folds["std"][heads[0]][rest[-1]] if len(heads) == 1 else None
    return Entry(run, sum(means) / len(means), math.nan, spread=spread)
