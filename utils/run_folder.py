"""The folder of a run: saved/NAME/RUN_ID, one process at a time."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import IO

from utils.errors import UserError
from utils.file_lock import try_lock

_held: dict[Path, IO[str]] = {}
_RUN_NAME = r"\w[\w.,=+@-]{0,99}"
_EXPECTED = (
    "expected a folder name of at most 100 letters, digits and _ - . , = + @ that begins with a letter, digit or _"
)


def run_name(text: str) -> str:
    """A --run-id that is a plain folder name. Raises argparse's error if it is not, or leads out of its folder."""
    if not re.fullmatch(_RUN_NAME, text):
        raise argparse.ArgumentTypeError(f"{_EXPECTED}, got '{text}'")
    return text


def create_run_folder(save_dir: Path, name: str, run_id: str | None, again: bool = False) -> Path:
    """A new, locked folder. Without `run_id` it is called by the time, with a counter where that is taken.

    again: a folder of `run_id` that was left before its first checkpoint is emptied and taken.
    """
    if run_id is not None and not re.fullmatch(_RUN_NAME, run_id):
        raise UserError(f"--run-id {run_id}: {_EXPECTED}")
    parent = save_dir / name
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = [run_id] if run_id else [stamp, *(f"{stamp}-{i}" for i in range(2, 1000))]
    for candidate in names:
        with contextlib.suppress(FileExistsError):
            (parent / candidate).mkdir()
            lock(parent / candidate)
            return parent / candidate
    folder = parent / str(run_id)
    if list(folder.glob("checkpoints/*.pth")) or (folder / "folds.json").exists():
        advice = f"continue it with -r {shlex.quote(str(folder))}"
    elif again:
        lock(folder)
        for left in [path for path in folder.iterdir() if path.name != ".lock"]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return folder
    else:
        advice = "which was left before its first checkpoint; begin it again with -r auto,"
    raise UserError(f"--run-id {run_id}: {folder} exists; {advice} or choose another id")


def lock(run_dir: Path, busy: str = "this run is being trained") -> None:
    """Hold the folder until this process ends, however it ends. Raises UserError if another process holds it."""
    if run_dir in _held:
        return
    try:
        file = (run_dir / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"{run_dir}: nothing can be written there ({error.strerror})") from error
    if not _lock_soon(file):
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise UserError(f"{run_dir}: {busy} by another process (PID {owner or 'unknown'})")
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held[run_dir] = file


def _lock_soon(file: IO[str]) -> bool:
    """Waits for those who only look whether it is locked (`is_being_trained`). True too where nothing can be locked."""
    for _ in range(5):
        try:
            if try_lock(file.fileno()):
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def is_being_trained(run_dir: Path) -> bool:
    """Whether another process holds the folder."""
    try:
        with (run_dir / ".lock").open("rb") as file:
            return not try_lock(file.fileno(), shared=True)
    except OSError:
        return False


def fold_folder(folder: Path, fold: int) -> Path:
    """The run of one fold, beside the folder of what the folds say together."""
    return folder.with_name(f"{folder.name}-fold{fold}")


def save_dir_of(run_dir: Path) -> Path:
    """SAVE_DIR, absolute, of the run in SAVE_DIR/NAME/RUN_ID."""
    return Path(os.path.abspath(run_dir)).parent.parent


def is_run_folder(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


def best_checkpoint(run_dir: Path) -> Path:
    """The best checkpoint of a run, or the last one where no epoch has been scored."""
    best = run_dir / "checkpoints" / "best.pth"
    return best if best.exists() else best.with_name("last.pth")


def run_folder_of(checkpoint: Path, save_dir: Path, run: str) -> Path | None:
    """The folder of the run that wrote a checkpoint: around it, or that of `run` where it is a copy.

    save_dir may be relative to the folder that the training was started in, so a copy is looked for beside it too.
    """
    if checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent
    return next((place for place in (save_dir / run, checkpoint.parent / run) if place.is_dir()), None)


def checkpoint_in(path: Path, best: bool = False) -> Path:
    """A checkpoint's path: `path` itself, or of the run folder that `path` is the last checkpoint, or the best one.

    Raises UserError for a folder of several runs.
    """
    if not path.is_dir():
        return path
    if not is_run_folder(path) and (runs := run_folders(path.parent, path.name)):
        more = ", …" if len(runs) > 5 else ""
        raise UserError(f"{path}: is a folder of runs; name one: {', '.join(map(str, runs[:5]))}{more}")
    return best_checkpoint(path) if best else path / "checkpoints" / "last.pth"


def run_folders(save_dir: Path, name: str) -> list[Path]:
    """Folders of NAME's runs that have a checkpoint, newest first."""
    parent = save_dir / name
    found = [p for p in parent.iterdir() if (p / "checkpoints" / "last.pth").exists()] if parent.is_dir() else []
    return sorted(found, key=lambda p: (p / "checkpoints" / "last.pth").stat().st_mtime, reverse=True)
