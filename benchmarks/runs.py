"""Trainings that a benchmark compares: which may be reused, how they continue, and their commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from trainer.speed import adopt
from utils.checkpoint import load_newest, previous_checkpoints
from utils.config import Config, apply_overrides, config_from_dict, differences, read_run_config
from utils.errors import ConfigError, UserError
from utils.files import atomic_write

PROJECT = Path(__file__).resolve().parents[1]
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


@contextmanager
def stop_signals_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as an exception does, so that what it started is stopped too."""

    def stopped(number: int, _frame: Any) -> NoReturn:
        print("stopped; the same command continues", file=sys.stderr)
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Planned(Protocol):
    """A training that is wanted."""

    def folder(self, out: Path) -> Path:
        """OUT/NAME/RUN_ID, no two alike."""


R = TypeVar("R", bound=Planned)


class Runs(ABC, Generic[R]):
    """out: folder of the runs. environment: of their commands, left out: that of this process."""

    def __init__(self, out: Path, environment: Mapping[str, str] | None = None):
        self.out, self.environment = out, dict(os.environ) if environment is None else environment
        self.children, self.stopping = set[subprocess.Popen](), False

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
        if _is_locked(folder):
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
            # A session of its own: Ctrl-C reaches only us, who then ask every child once to save and stop.
            child = subprocess.Popen(
                [sys.executable, str(PROJECT / command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={"PYTHONUNBUFFERED": "1", **self.environment},
                start_new_session=True,
            )
            self.children.add(child)
            if self.stopping:
                child.send_signal(signal.SIGTERM)
            code = child.wait()
            self.children.discard(child)
        if code:
            with log.open("rb") as file:
                file.seek(begin)
                said = file.read().decode(errors="replace").splitlines()
            tail = "\n".join(f"    {line}" for line in said[-SHOWN_ON_FAILURE:])
            raise RunFailed(f"{command[0]} ended with exit code {code}; the end of {log}:\n{tail}")

    def stop(self) -> None:
        """Ask every running command to save and stop."""
        self.stopping = True
        for child in list(self.children):
            child.send_signal(signal.SIGTERM)


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


def _is_locked(folder: Path) -> bool:
    """Whether a process holds the run."""
    try:
        import fcntl
    except ImportError:
        return False
    if not (folder / ".lock").exists():
        return False
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _file_name(run: Planned, out: Path) -> str:
    folder = run.folder(out)
    return f"{folder.parent.name}_{folder.name}"
