"""The scores of the runs of `semi_supervised.py`, by `test.py`: a row per head."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.frozen_features import logistic_regression
from benchmarks.methods import METHODS
from benchmarks.semi_supervised_runs import Bench, Run
from report.evaluation import evaluate_head

MEAN = "mean over heads"
Rows = list[dict[str, Any]]
HeadScores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Scoring:
    """split: what is scored. last: the last epoch, not the best. tta: further views. fit: what is fitted on valid.

    reach: a macro F1 on the validation images, the time to which is wanted.
    """

    split: str
    last: bool = False
    tta: Sequence[str] = ()
    fit: Sequence[str] = ()
    reach: float | None = None

    @property
    def flatters(self) -> bool:
        """Whether the epoch is chosen on the images that are scored; then the last one is scored as well."""
        return self.split == "valid" and not self.last

    def rows(self, bench: Bench, run: Run) -> Rows:
        """Train what is not trained, score what is not scored: a row of the table per head, their mean first.

        Raises RunFailed if a command fails.
        """
        if METHODS[run.method].frozen:
            found, minutes = self._frozen(bench, run)
            checkpoint = "none"
        else:
            bench.train(run)
            found, minutes = self._trained(bench, run)
            checkpoint = "last" if self.last else "best"
        about = {"method": run.method, "labels": str(run.labels), "seed": run.seed}
        how = {"split": self.split, "checkpoint": checkpoint, "minutes": round(minutes, 2)}
        return [{**about, "head": head, **values, **how} for head, values in with_mean(found).items()]

    def _trained(self, bench: Bench, run: Run) -> tuple[HeadScores, float]:
        chosen = "last" if self.last else "best"
        found = {"": report(bench, run, chosen, self.split)}
        if self.flatters:
            found["last_"] = report(bench, run, "last", self.split)
        if self.tta:
            found["tta_"] = report(bench, run, chosen, self.split, "--tta", *self.tta)
        scores = scores_of_heads({prefix: metrics["heads"] for prefix, metrics in found.items()})
        if self.fit:
            for head, value in self._fitted(bench, run, chosen).items():
                scores[head]["fitted_macro_f1"] = value
        log = pd.read_csv(run.folder(bench.out) / "metrics.csv")
        minutes = log["seconds"].cumsum() / 60
        if self.reach is not None:
            for head, values in scores.items():
                there = minutes[log[f"valid/{head}/macro_f1"] >= self.reach]
                values["minutes_to"] = float(there.iloc[0]) if len(there) else math.nan
        return scores, float(minutes.iloc[-1])

    def _fitted(self, bench: Bench, run: Run, chosen: str) -> dict[str, float]:
        """Macro F1 with what was fitted on valid: on test, or, without one, cross-fitted on valid."""
        fit = report(bench, run, chosen, "valid", "--fit", *self.fit)
        if self.split == "valid":
            scores = {head: fit["calibration"]["scores"][head]["cross_fitted"] for head in fit["heads"]}
            return {head: value["macro_f1"] if value else math.nan for head, value in scores.items()}
        applied = report(bench, run, chosen, self.split, "--calibration", fit["calibration"]["file"])
        return {head: result["macro_f1"] for head, result in applied["heads"].items()}

    def _frozen(self, bench: Bench, run: Run) -> tuple[HeadScores, float]:
        started = time.perf_counter()
        heads = logistic_regression(bench.config(run), self.split, bench.out / "features")
        labeled = [head for head in heads if head.labeled.any()]
        results = {head.name: evaluate_head(head, np.arange(len(head.labels)), bootstrap=0) for head in labeled}
        scores = scores_of_heads(dict.fromkeys(("", "last_") if self.flatters else ("",), results))
        return scores, (time.perf_counter() - started) / 60


def report(bench: Bench, run: Run, chosen: str, split: str, *options: str) -> dict[str, Any]:
    """metrics.json of a checkpoint, `best` or `last`, on a split, made by test.py if it is not there."""
    folder = run.folder(bench.out)
    checkpoint = folder / "checkpoints" / f"{chosen}.pth"
    if not checkpoint.exists():  # no epoch had a value to choose by
        checkpoint = folder / "checkpoints" / "last.pth"
    name = "_".join([split, checkpoint.stem, *(option.removeprefix("--") for option in options)])
    if "--calibration" in options:
        name = f"{split}_{Path(options[-1]).parent.name}"
    file = folder / "scores" / name / "metrics.json"
    if not file.exists() or file.stat().st_mtime < checkpoint.stat().st_mtime:
        command = ["test.py", "--resume", str(checkpoint), "--split", split, "--out", str(file.parent), *options]
        bench.call(run, command)
    return json.loads(file.read_text())


def scores_of_heads(reports: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> HeadScores:
    """{head: {PREFIXmacro_f1, PREFIXap}} of {PREFIX: {head: its part of metrics.json}}.

    ap is that of the rarer of two classes, and the mean over the classes that have images if there are more; NaN where
    the rarer class has none.
    """
    found: HeadScores = {}
    for prefix, heads in reports.items():
        for head, result in heads.items():
            of_rare = [*result.get("average_precision", {}).values()]
            ap = of_rare[0] if of_rare else result["mean_average_precision"]
            values = found.setdefault(head, {})
            values[f"{prefix}macro_f1"] = result["macro_f1"]
            values[f"{prefix}ap"] = math.nan if ap is None else ap
    return found


def with_mean(heads: HeadScores) -> HeadScores:
    """The heads and, if there are several, before them the mean of the scores that they have."""
    if len(heads) < 2:
        return heads
    mean = pd.DataFrame(heads).mean(axis=1)
    return {MEAN: {str(measure): float(value) for measure, value in mean.items()}, **heads}
