"""Proof on the user's own config that stopping and continuing changes nothing."""

from __future__ import annotations

import contextlib
import csv
import signal
import tempfile
from pathlib import Path
from typing import Any

import torch

from base.base_trainer import BaseTrainer
from base.waiting import TIMINGS
from logger.run_logger import RunLogger
from trainer.build import build_trainer
from trainer.components import check_components
from utils.checkpoint import load_checkpoint
from utils.config import Config, apply_overrides
from utils.device import choose_device
from utils.distributed import World
from utils.stop_signal import Stopped

_CUTS = (2, 4, 5)


def check_resume(config: Config, device_name: str) -> tuple[bool, list[str]]:
    """Train 2 x 4 steps undisturbed, then again stopped after steps 2, 4 and 5: equal weights and log rows?

    Returns the answer and lines that say what was compared or what differs. Works in a temporary folder.
    """
    check_components(config)
    device = choose_device(device_name)
    with tempfile.TemporaryDirectory() as folder:
        changes = ["trainer.epochs=2", "trainer.steps_per_epoch=4", "trainer.early_stop=null", "logger.console=false"]
        changes += ["logger.tensorboard=false", 'logger.wandb.mode="disabled"', f"trainer.save_dir={folder}"]
        if "warm_up_epochs" in config.trainer.args:
            changes.append("trainer.args.warm_up_epochs=0")
        (Path(config.trainer.save_dir) / ".cache").mkdir(parents=True, exist_ok=True)
        (Path(folder) / ".cache").symlink_to((Path(config.trainer.save_dir) / ".cache").resolve())
        short = apply_overrides(config, changes)
        if short.trainer.speed == "auto":  # measured once: two runs might choose differently
            short = build_trainer(short, device, World(), {}, tell=lambda _: None).trainer.config
        straight = _train(short, device, Path(folder) / "straight", ())
        stopped = _train(short, device, Path(folder) / "stopped", _CUTS)
        problems = _differences(straight, stopped)
    if problems:
        hints = "non-deterministic kernels of this device" if device.type != "cpu" else "another number of threads"
        return False, [*problems, f"stop-and-resume does not repeat the undisturbed run here; a likely cause: {hints}"]
    cuts = ", ".join(map(str, _CUTS))
    return True, [
        f"8 steps, stopped after steps {cuts}: weights, averaged weights and log rows are equal bit for bit on {device}"
    ]


def _train(config: Config, device: torch.device, run_dir: Path, cuts: tuple[int, ...]) -> dict[str, Any]:
    state, last = None, run_dir / "checkpoints" / "last.pth"
    last.parent.mkdir(parents=True)
    for cut in (*cuts, None):
        trainer = build_trainer(config, device, World(), {}, state=state, tell=lambda _: None).trainer
        resume = None if state is None else {"epoch": state["epoch"], "step": state["step"], "wandb_id": None}
        off = {"mode": "disabled"}
        logger = RunLogger(run_dir, console=False, tensorboard=False, wandb=off, name="check", config={}, resume=resume)
        trainer.start_in(run_dir, logger)
        if cut is not None:
            _stop_after(trainer, cut)
        with contextlib.suppress(Stopped):
            trainer.train()
        logger.close()
        state = load_checkpoint(last)
    assert state is not None
    with (run_dir / "metrics.csv").open() as file:
        rows = [{name: value for name, value in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]
    return {"rows": rows, "model": state["model"], "ema": (state["ema"] or {}).get("model", {})}


def _stop_after(trainer: BaseTrainer, step: int) -> None:
    train_on = trainer.train_on

    def train_and_stop(*batches: Any) -> torch.Tensor:
        loss = train_on(*batches)
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)
        return loss

    trainer.train_on = train_and_stop  # type: ignore[method-assign]


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    lines = []
    for one, two in zip(a["rows"], b["rows"]):
        for name in one:
            if one[name] != two.get(name):
                lines.append(f"epoch {one['epoch']}: {name} is {one[name]} undisturbed, {two.get(name)} resumed")
    for part in ("model", "ema"):
        unequal = [name for name in a[part] if not torch.equal(a[part][name], b[part][name])]
        if unequal:
            largest = max(float((a[part][n].double() - b[part][n].double()).abs().max()) for n in unequal)
            lines.append(f"{part}: {len(unequal)} of {len(a[part])} tensors differ, at most by {largest:.3g}")
    return lines
