"""A training command from its arguments to the finished run: new, continued, or checked only."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from base.base_dataset import to_device
from base.base_trainer import BaseTrainer
from data_loader.duplicates import identical_across
from data_loader.prepare_labels import Labels, read_labels
from data_loader.split_file import read_split, write_split
from logger.environment import environment
from logger.run_logger import RunLogger
from trainer.build import Built, build_trainer
from trainer.components import check_components
from trainer.speed import adopt
from utils.checkpoint import DamagedCheckpoint, load_newest
from utils.config import Config, apply_overrides, config_from_dict, differences, is_about, read_run_config
from utils.device import choose_device
from utils.distributed import World, is_main_process, join_world, wait_for_all
from utils.errors import ConfigError, NothingToDo, UserError
from utils.files import atomic_write
from utils.run_folder import checkpoint_in, create_run_folder, lock, run_folder_of, run_folders

# What may differ between a run and its continuation; anything else would make it another run.
MAY_CHANGE = (
    "about",
    "data_loader.num_workers",
    "data_loader.cache",
    "dataset.args.root",
    "logger",
    "trainer.early_stop",
    "trainer.epochs",
    "trainer.keep_last",
    "trainer.save_dir",
)


def train(
    config: Config | None,
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    resume: str | None = None,
    device_name: str = "auto",
    run_id: str | None = None,
) -> BaseTrainer:
    """Prepare a new or a continued run, folder and log included; the caller starts its loop.

    config: of a new run, or of `resume` "auto"; None where `resume` names the checkpoint that carries it, and
    `config_file` and `overrides` may change some of it.

    Raises UserError for everything the user can mend, before a run folder exists, ValueError for both a `config` and
    `overrides`.
    """
    if config is not None and overrides:
        raise ValueError("overrides are for a run that its checkpoint describes; give a config's to load_config")
    config, state, run_dir, notes = _start_or_continue(config, config_file, overrides, resume, run_id)
    check_components(config)
    world = join_world("cuda" if device_name.startswith(("cuda", "auto")) and torch.cuda.is_available() else "cpu")
    device = choose_device(device_name, world)
    seen = environment(device, config.seed)
    built = build_trainer(config, device, world, seen, _saved_split(config, run_dir), state, _on_main(world))
    config = built.trainer.config
    if world.is_main:
        run_dir = run_dir or create_run_folder(Path(config.trainer.save_dir), config.name, run_id, resume == "auto")
        lock(run_dir)
        _write_run_files(run_dir, config, seen, built)
        built.trainer.start_in(run_dir, _logger(run_dir, config, state))
        for line in [
            *notes,
            *built.notes,
            _on_what(config, seen),
            *_disk_notes(built.trainer),
            f"run folder: {run_dir}",
        ]:
            built.trainer.logger.info(line)
    wait_for_all()
    return built.trainer


def check(config: Config, device_name: str) -> list[str]:
    """Load and try everything, write nothing; returns what to print: data, model, memory and time of one step."""
    check_components(config)
    device = choose_device(device_name)
    seen = environment(device, config.seed)
    built = build_trainer(config, device, World(), seen)
    trainer = built.trainer
    trainer.step = getattr(trainer, "warm_up_steps", 0)
    batch = trainer.data.first_batch()
    seconds = [_time_step(trainer, to_device(batch, device)) for _ in range(3)]
    trainer.scoring.evaluate(trainer.evaluated_model, islice(trainer.data.evaluation_batches("valid"), 1), "valid")
    steps = trainer.steps_per_epoch
    lines = [
        *built.notes,
        *_copies(built.labels),
        _on_what(trainer.config, seen),
        *_disk_notes(trainer),
        f"{steps} steps an epoch, {config.trainer.epochs} epochs; {_memory(device)}",
        f"one step takes {min(seconds):.3g} s on {device}, an epoch about {_duration(min(seconds) * steps)}",
        f"{config.name}: everything is in order",
    ]
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _copies(labels: Labels) -> list[str]:
    pairs = identical_across(labels.frame, labels.split)
    return [
        f"warning: {len(pairs):,} files have a copy on another side of the split (such as {' and '.join(pair)}), so "
        'scores are too good; labels.duplicates "exact" keeps them together'
        for pair in pairs[:1]
    ]


def _time_step(trainer: BaseTrainer, batch: Any) -> float:
    started = time.perf_counter()
    trainer.network.train()
    trainer.train_on(*[batch] * trainer.config.trainer.accumulate)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - started


def _on_what(config: Config, seen: dict[str, Any]) -> str:
    name = f" ({seen['device_name']})" if seen["device_name"] else ""
    return f"device {seen['device']}{name}, precision {config.trainer.precision}"


def _disk_notes(trainer: BaseTrainer) -> list[str]:
    """A warning where the run's checkpoints will hardly fit: last.pth and older ones, best.pth, model.pth, and the one
    that is being written."""
    config = trainer.config.trainer
    weights = [*trainer.model.parameters(), *trainer.model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights) * (2 if config.ema else 1)
    trained = [tensor for group in trainer.parts.optimizer.param_groups for tensor in group["params"]]
    size += 2 * sum(tensor.numel() * tensor.element_size() for tensor in trained)  # Adam's; others have less
    needed = size * (config.keep_last + 3)
    place = Path(config.save_dir).absolute()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free > needed:
        return []
    return [
        f"warning: trainer.save_dir: {free / 2**20:,.0f} MiB are free in {there}, the checkpoints take about "
        f"{needed / 2**20:,.0f} MiB; remove old runs, or lower trainer.keep_last"
    ]


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak GPU memory {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
    try:
        import resource
    except ImportError:
        return "peak memory unknown on this system"
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def _start_or_continue(
    config: Config | None, config_file: Path | None, overrides: Sequence[str], resume: str | None, run_id: str | None
) -> tuple[Config, dict[str, Any] | None, Path | None, list[str]]:
    skipped: list[str] = []
    if config is not None and resume == "auto":
        folder, skipped = _unfinished(config, run_id)
        if folder is None:
            return config, None, None, [*skipped, "-r auto: no unfinished run of this config; starting one"]
        resume = str(folder)
    if resume is None:
        assert config is not None
        return config, None, None, []
    path = checkpoint_in(Path(resume))
    state, used, damaged = load_newest(path)
    stored = config_from_dict(json.loads(state["config"]), str(used))
    wanted = adopt(config or apply_overrides(stored, overrides, config_file), stored)
    _refuse_changes(stored, wanted)
    run_dir = run_folder_of(used, Path(wanted.trainer.save_dir), state["run"])
    if run_dir is None:
        raise UserError(
            f"{used}: the folder of its run '{state['run']}' is neither in {wanted.trainer.save_dir} nor beside it; "
            "continue from a checkpoint in a run folder"
        )
    _refuse_rewinding(used, run_dir, state)
    if run_id is not None and run_id != run_dir.name:
        raise UserError(f"--run-id {run_id}: {path} continues the run '{run_dir.name}'")
    if is_main_process():
        lock(run_dir)
    if state["finished"] and state["step"] >= wanted.trainer.epochs * (state["step"] // max(1, state["epoch"])):
        raise UserError(
            f"{used}: this run is finished after {state['epoch']} epochs; give it more with -s trainer.epochs=N"
        )
    notes = [*skipped, *damaged, *([f"falling back to {used}"] if damaged else [])]
    notes += [f"changed: {line}" for line in differences(stored, wanted)]
    return wanted, state, run_dir, [*notes, f"continuing after step {state['step']} from {used}"]


def _refuse_rewinding(path: Path, run_dir: Path, state: dict[str, Any]) -> None:
    """Raises UserError if the run has come further than this checkpoint, since continuing would drop what followed."""
    last = run_dir / "checkpoints" / "last.pth"
    if path == last or not last.exists():
        return
    try:
        newest, newer, _ = load_newest(last)
    except DamagedCheckpoint:
        return
    if newest["step"] > state["step"]:
        raise UserError(
            f"{path}: is of epoch {state['epoch']}, but its run has come to epoch {newest['epoch']} ({newer}); "
            f"continue that with -r {shlex.quote(str(run_dir))}, or start a new run from these weights: "
            f"-s arch.args.weights={shlex.quote(str(path))}"
        )


def _unfinished(config: Config, run_id: str | None) -> tuple[Path | None, list[str]]:
    """The newest run of the same config, or the one called `run_id`, that has not finished, and which ones cannot be
    continued. Raises NothingToDo if the one called `run_id` has, and no more epochs are asked for."""
    left_out: list[str] = []
    for folder in run_folders(Path(config.trainer.save_dir), config.name):
        if _is_of_another_config(folder, config) if run_id is None else folder.name != run_id:
            continue
        try:
            state, used, _ = load_newest(folder / "checkpoints" / "last.pth")
            stored = config_from_dict(json.loads(state["config"]), str(used))
        except (DamagedCheckpoint, ConfigError) as error:  # or of a version with other keys
            left_out.append(f"warning: -r auto: {folder} cannot be continued\n{error}")
            continue
        changes = forbidden(differences(stored, adopt(config, stored)))
        more = run_id is not None and config.trainer.epochs > stored.trainer.epochs
        if not changes and (more or not state["finished"]):
            return folder, left_out
        if run_id is not None and changes:
            raise UserError(
                f"--run-id {run_id}: {folder} is a run of another config ({changes[0]}); choose another id, or "
                f"continue it with -r {shlex.quote(str(folder))}"
            )
        if run_id is not None:
            said = f"-r auto: {folder} is finished; nothing was trained or written"
            raise NothingToDo(said if is_main_process() else "")
    return None, left_out


def _is_of_another_config(folder: Path, config: Config) -> bool:
    """Known from the run's config.json, for checkpoints are large; False where that cannot be read."""
    try:
        stored = read_run_config(folder)
    except (OSError, ValueError, ConfigError):
        return False
    return bool(forbidden(differences(stored, adopt(config, stored))))


def forbidden(changes: list[str]) -> list[str]:
    """Those of `differences` that would make another run."""
    return [line for line in changes if not is_about(line, MAY_CHANGE)]


def _refuse_changes(stored: Config, wanted: Config) -> None:
    refused = forbidden(differences(stored, wanted))
    if refused:
        raise ConfigError(
            [f"-r: {line}: cannot change in a run that continues; start a new run" for line in refused]
            + [f"what may change: {', '.join(MAY_CHANGE)}"]
        )


def _saved_split(config: Config, run_dir: Path | None) -> Any:
    if run_dir is None or not (run_dir / "split.csv").exists():
        return None
    return read_split(run_dir / "split.csv", read_labels(config))[0]


def _write_run_files(run_dir: Path, config: Config, seen: dict[str, Any], built: Built) -> None:
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    atomic_write(run_dir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
    seen = {**_with_first_start(run_dir, seen), "valid_labels": built.trainer.data.state_dict()["valid_labels"]}
    atomic_write(run_dir / "environment.json", json.dumps(seen, indent=2) + "\n")
    if not (run_dir / "split.csv").exists():
        write_split(run_dir / "split.csv", built.labels.frame, built.labels.split)


def _with_first_start(run_dir: Path, seen: dict[str, Any]) -> dict[str, Any]:
    """Of a run that continues: when it was started first, and `continued` now."""
    try:
        started = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return seen
    return {**seen, "started": started, "continued": seen["started"]}


def _logger(run_dir: Path, config: Config, state: dict[str, Any] | None) -> RunLogger:
    resume = None
    if state is not None:
        resume = {"epoch": state["epoch"], "step": state["step"], "wandb_id": state["logger"]["wandb_id"]}
    return RunLogger(
        run_dir,
        console=config.logger.console,
        tensorboard=config.logger.tensorboard,
        wandb=config.logger.wandb.model_dump(),
        name=f"{config.name}/{run_dir.name}",
        config=config.to_dict(),
        resume=resume,
    )


def _on_main(world: World) -> Any:
    return print if world.is_main else lambda _: None
