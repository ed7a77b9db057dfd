"""Every fold of a config trained in turn, each in a run of its own, and predictions for every labeled image.

SAVE_DIR/NAME/RUN_ID-fold1 … RUN_ID-foldK are runs like any other; SAVE_DIR/NAME/RUN_ID holds what they say together:
oof.csv, test.csv and eval.csv as far as there are such images, and folds.json, which is there from the start and
`finished` in the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from report.fold_vote import format_vote
from report.folds import format_folds
from trainer import session
from trainer.fold_predictions import predict_folds
from trainer.speed import adopt
from utils.checkpoint import load_newest
from utils.config import Config, apply_overrides, config_from_dict, differences, read_run_config
from utils.device import choose_device
from utils.errors import ConfigError, UserError
from utils.files import atomic_write
from utils.run_folder import best_checkpoint, create_run_folder, fold_folder, lock
from utils.stop_signal import Stopped

# What a run of one fold may change when it continues would leave the folds unlike one another.
_SAME_IN_ALL = ("trainer.epochs", "trainer.early_stop")


def train_folds(config: Config, resume: str | None, device_name: str, run_id: str | None, again: str) -> None:
    """Train what is not yet trained of the folds of `config` (which is fold 1's), then write what they predict.

    resume: "auto" continues the newest unfinished folds of this config, or those of `run_id`, which may be finished.
    again: the command that does so.
    Raises Stopped, naming it, after SIGTERM or SIGINT, and UserError for everything the user can mend.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--folds runs in one process; with torchrun train one fold: -s split.folds=K -s split.fold=I")
    done = _finished(config, run_id) if resume == "auto" and run_id else None
    if done is not None:
        print(f"{format_folds(done)}\n\n{format_vote(done['vote'])}\n")
        print(f"-r auto: all {config.split.folds} folds of '{run_id}' are finished; nothing was trained or written")
        return
    folder, is_new = _open_folder(config, resume, run_id)
    folds = config.split.folds or 0
    at = ""
    try:
        with _stop_at_once():
            for fold in range(1, folds + 1):
                at = f"fold {fold} of {folds}"
                _train_fold(config, folder, fold, at, device_name)
            at = "out-of-fold predictions"
            runs = [fold_folder(folder, fold) for fold in range(1, folds + 1)]
            summary = predict_folds(config, folder, runs, choose_device(device_name))
            _write_json(folder, config, {"finished": True, **summary})
    except Stopped as stopped:
        said = str(stopped).partition(";")[0]
        raise Stopped(stopped.exit_code - 128, f"{at}: {said}; continue with:  {again}") from None
    except UserError:
        if is_new and not fold_folder(folder, 1).exists():
            shutil.rmtree(folder)
        raise
    print(f"{format_folds(summary)}\n\n{format_vote(summary['vote'])}\n")
    print(f"out-of-fold predictions: {folder / 'oof.csv'}; scores: {folder / 'folds.json'}")
    models = [str(best_checkpoint(run)) for run in runs]
    print(f"their vote on other images:  python predict.py --resume {shlex.join(models)} FOLDER")


def resume_command(config_file: Path, overrides: list[str], folds: int, device: str, run_id: str | None) -> str:
    """The command line that continues the folds."""
    parts = ["python", "train.py", "-c", str(config_file), *(part for text in overrides for part in ("-s", text))]
    parts += ["-d", device] if device != "auto" else []
    parts += ["--run-id", run_id] if run_id else []
    return shlex.join([*parts, "--folds", str(folds), "-r", "auto"])


@contextlib.contextmanager
def _stop_at_once() -> Iterator[None]:
    """SIGTERM and SIGINT raise Stopped, except in a trainer's loop, which stops after its step in its own way."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number, "stopped")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_folder(config: Config, resume: str | None, run_id: str | None) -> tuple[Path, bool]:
    """The folds' common folder, locked, and whether it is new."""
    found = _unfinished(config, run_id) if resume == "auto" else None
    if found is not None:
        lock(found)
        print(f"-r auto: continuing the folds of {found}")
        return found, False
    if resume:
        print("-r auto: no unfinished folds of this config; starting")
    session.check_components(config)
    parent = Path(config.trainer.save_dir) / config.name
    taken = sorted(parent.glob(f"{run_id}-fold*")) if run_id else []
    if taken:
        advice = "which is no fold of these" if resume else "continue with -r auto"
        raise UserError(f"--run-id {run_id}: {taken[0]} exists, {advice}, or choose another id")
    folder = create_run_folder(Path(config.trainer.save_dir), config.name, run_id)
    _write_json(folder, config, {"finished": False})
    return folder, True


def _finished(config: Config, run_id: str) -> dict[str, Any] | None:
    """The summary of the folds called `run_id` if they are finished.

    Raises UserError if they are of another config.
    """
    folder = Path(config.trainer.save_dir) / config.name / run_id
    file = folder / "folds.json"
    if not file.exists():
        return None
    known, changes = _compare(file, config)
    if changes:
        raise UserError(
            f"--run-id {run_id}: {folder} has the folds of another config ({changes[0]}); choose another id"
        )
    return known if known["finished"] and (folder / "oof.csv").exists() else None


def _unfinished(config: Config, run_id: str | None) -> Path | None:
    """The folder of the newest folds of the same config that are not finished."""
    parent = Path(config.trainer.save_dir) / config.name
    for file in sorted(parent.glob(f"{run_id or '*'}/folds.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        known, changes = _compare(file, config)
        complete = known["finished"] and (file.with_name("oof.csv").exists() or not run_id)
        if not complete and not changes:
            return file.parent
    return None


def _compare(file: Path, config: Config) -> tuple[dict[str, Any], list[str]]:
    """What a folds.json says, and what makes its config another one than `config`."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        changes = differences(config_from_dict(known["config"], str(file)), config)
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise UserError(f"{file}: is damaged, or of another version ({error}); remove {file.parent}") from None
    alike = [line for line in changes if line.split(":")[0] in _SAME_IN_ALL]
    return known, [*session.forbidden(changes), *alike]


def _train_fold(config: Config, folder: Path, fold: int, name: str, device_name: str) -> None:
    """One run with a model, optimizer and random state of its own: new, continued, or found finished."""
    run_dir = fold_folder(folder, fold)
    last, resume = run_dir / "checkpoints" / "last.pth", None
    if last.exists():
        if load_newest(last)[0]["finished"]:
            print(f"{name}: finished in {run_dir}")
            return
        resume = str(last)
    elif run_dir.exists():
        shutil.rmtree(run_dir)  # killed before its first checkpoint: nothing to continue from
    print(f"{name}: {'continuing' if resume else 'training'}", flush=True)
    of_fold = apply_overrides(config, [f"split.fold={fold}"])
    first = fold_folder(folder, 1)
    if fold > 1 and (first / "config.json").exists():
        of_fold = adopt(of_fold, read_run_config(first))
    trainer = session.train(of_fold, None, [], resume, device_name, run_dir.name)
    try:
        trainer.train()
    finally:
        trainer.logger.close()


def _write_json(folder: Path, config: Config, content: dict[str, Any]) -> None:
    known = {"folds": config.split.folds, **content, "config": config.to_dict()}
    atomic_write(folder / "folds.json", json.dumps(known, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
