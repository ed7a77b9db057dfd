"""The runs of `semi_supervised.py` and their configs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.methods import METHODS, PLAIN_HEAD, SUPERVISED
from benchmarks.runs import Runs
from utils.config import Config, apply_overrides
from utils.errors import ConfigError


@dataclass(frozen=True)
class Run:
    """labels: how many, "all", or "config" for those that the config leaves."""

    method: str
    labels: int | str
    seed: int

    def folder(self, out: Path) -> Path:
        """OUT/NAME/RUN_ID; "+" may not be in the name of a run."""
        return out / self.method.replace("+", "_") / f"labels{self.labels}_seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.method}, labels {self.labels}, seed {self.seed}"


class Bench(Runs[Run]):
    """base: the config with what is said for every run. out, environment: as in Runs."""

    def __init__(self, base: Config, out: Path, environment: Mapping[str, str] | None = None):
        super().__init__(out, environment)
        self.base, self.configs = base, dict[Run, Config]()

    def config(self, run: Run) -> Config:
        """What the run is trained with. Raises ConfigError if the method does not go with the config."""
        if run not in self.configs:
            self.configs[run] = self._resolve(run)
        return self.configs[run]

    def _resolve(self, run: Run) -> Config:
        method = METHODS[run.method]
        given = self.base.trainer.args
        kept = [f"trainer.args.{name}={json.dumps(given[name])}" for name in method.keeps if name in given]
        settings = [*method.settings, *kept, *self._labels(run), f"seed={run.seed}"]
        # A trainer of another type takes the arguments of this one away.
        base = apply_overrides(self.base, SUPERVISED[:1]) if method.own_trainer else self.base
        settings += [f"name={run.folder(self.out).parent.name}", f"trainer.save_dir={json.dumps(str(self.out))}"]
        try:
            return apply_overrides(base, [part for setting in settings for part in self._fitting(setting)])
        except ConfigError as error:
            raise ConfigError([f"method {run.method}: {problem}" for problem in error.problems]) from error

    def _labels(self, run: Run) -> list[str]:
        labeled, loader = self.base.labels.labeled, self.base.data_loader
        if run.labels == "all":
            images = loader.batch_size * (1 + loader.unlabeled_ratio)
            return ["labels.labeled=null", f"data_loader.batch_size={images}"]
        if run.labels != "config":
            return [f'labels.labeled={{"count": {run.labels}, "seed": {run.seed}}}']
        if labeled is None:
            return []
        several = labeled.items() if isinstance(labeled, dict) else [(None, labeled)]
        drawn = {name: {**part.model_dump(), "seed": run.seed} for name, part in several}
        return [f"labels.labeled={json.dumps(drawn.get(None, drawn))}"]

    def _fitting(self, setting: str) -> list[str]:
        """A setting of the loss for each of the losses that the config has; the plain head where there are others."""
        if setting == PLAIN_HEAD and "head" not in self.base.arch.args:
            return []
        if not (isinstance(self.base.loss, dict) and setting.startswith("loss.")):
            return [setting]
        return [setting.replace("loss.", f"loss.{head}.", 1) for head in self.base.loss]
