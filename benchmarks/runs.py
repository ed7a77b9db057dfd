"""Trainings that a benchmark compares: which may be reused, how they continue, and their commands."""

from __future__ import annotations

import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from trainer.speed import adopt
from utils.checkpoint import load_newest, previous_checkpoints
from utils.children import Children
from utils.config import Config, apply_overrides, config_from_dict, differences, read_run_config
from utils.errors import ConfigError, UserError
from utils.files import atomic_write
from utils.run_folder import is_being_trained

# What a run may differ in and still have the figures that are wanted.
FREE = (
    "about",
    "data_loader.cache",
    "data_loader.num_workers",
    "dataset.args.root",
    "logger",
    "name",
    "trainer.keep_last",
    "trainer.save_dir",
)
SHOWN_ON_FAILURE = 15


class RunFailed(Exception):
    """A command of a run ended with an error; the message has the end of its output."""


class Planned(Protocol):
    """A training that is wanted."""

    def folder(self, out: Path) -> Path:
        """OUT/NAME/RUN_ID, no two alike."""


R = TypeVar("R", bound=Planned)


class Runs(ABC, Generic[R]):
    """out: folder of the runs. environment: of their commands, left out: that of this process."""

    def __init__(self, out: Path, environment: Mapping[str, str] | None = None):
        self.out, self.children = out, Children(environment)

    @abstractmethod
    def config(self, run: R) -> Config:
        """What the run is trained with: named NAME and saved in `out`. Raises ConfigError if that cannot be."""

    # What is there from earlier --------------------------------------------------------------------------------------

    def stale(self, run: R) -> list[str]:
        """In what the run in OUT, if there is one, differs from the wanted one: `trainer.epochs: 4 -> 5`."""
        file = run.folder(self.out) / "config.json"
        if not file.exists():
            return []
        try:
            stored = read_run_config(file.parent)
        except (ConfigError, ValueError) as error:
            return [f"{file} cannot be read: {str(error).splitlines()[0]}"]
        wanted = adopt(_with_weights_of(stored, self.config(run)), stored)
        return [line for line in differences(stored, wanted) if not _is_free(line)]

    def discard(self, run: R) -> None:
        """Remove the run's folder. Raises UserError while it is being trained."""
        folder = run.folder(self.out)
        if is_being_trained(folder):
            raise UserError(f"{folder}: this run is being trained by another process")
        shutil.rmtree(folder)

    # Commands ---------------------------------------------------------------------------------------------------------

    def train(self, run: R) -> None:
        """The run to its end: a new one, or the rest of one that was interrupted."""
        folder, config = run.folder(self.out), self.config(run)
        last = folder / "checkpoints" / "last.pth"
        command = ["train.py"]
        if last.exists() or previous_checkpoints(last):
            stored = load_newest(last)[0]
            if stored["finished"]:
                return
            config = _with_weights_of(config_from_dict(json.loads(stored["config"]), str(last)), config)
            command += ["-r", str(last)]
        else:
            if folder.exists():
                self.discard(run)  # interrupted before its first checkpoint
            command += ["--run-id", folder.name]
        file = self.out / "config" / f"{_file_name(run, self.out)}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(config.to_dict(), indent=2) + "\n")
        self.call(run, [*command, "-c", str(file)])

    def call(self, run: R, command: list[str]) -> None:
        """A command of the project, its output appended to OUT/log/NAME.log. Raises RunFailed."""
        log = self.out / "log" / f"{_file_name(run, self.out)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            begin = file.tell()
            code = self.children.run(command, file)
        if code:
            with log.open("rb") as file:
                file.seek(begin)
                said = file.read().decode(errors="replace").splitlines()
            tail = "\n".join(f"    {line}" for line in said[-SHOWN_ON_FAILURE:])
            raise RunFailed(f"{command[0]} ended with exit code {code}; the end of {log}:\n{tail}")

    def stop(self) -> None:
        """Ask every running command to save and stop."""
        self.children.stop()


def _with_weights_of(stored: Config, config: Config) -> Config:
    """The config with the stored path of the weights, if the file is called the same: it may have moved."""
    before, now = stored.arch.args.get("weights"), config.arch.args.get("weights")
    if before is None or now is None or type(before) is not type(now) or _weights_name(before) != _weights_name(now):
        return config
    path = "arch.args.weights.path" if isinstance(before, dict) else "arch.args.weights"
    value = before["path"] if isinstance(before, dict) else before
    return apply_overrides(config, [f"{path}={json.dumps(value)}"], catalogue=None)


def _weights_name(weights: Any) -> str:
    return Path(weights["path"] if isinstance(weights, dict) else weights).name


def _is_free(difference: str) -> bool:
    key = re.sub(r"\[\d+\]", "", difference.split(":")[0])
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _file_name(run: Planned, out: Path) -> str:
    folder = run.folder(out)
    return f"{folder.parent.name}_{folder.name}"
