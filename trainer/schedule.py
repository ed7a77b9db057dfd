"""The learning rate's schedule of a run, and how it fits the run's length."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import torch

from base.base_trainer import BaseTrainer
from base.parts import Scheduler
from trainer.components import KINDS
from utils.config import Component, Config
from utils.errors import ConfigError


def build_scheduler(config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Scheduler | None:
    """The length of the run is filled in where a schedule has `total_steps` and the config does not say."""
    if config.lr_scheduler is None:
        return None
    args = {**config.lr_scheduler.args, **_shorter_warm_up(config, steps_per_epoch)}
    parameters = inspect.signature(
        KINDS["lr_scheduler"].find(config.lr_scheduler.type, config.where("lr_scheduler"))
    ).parameters
    if "total_steps" in parameters and not args.get("total_steps"):
        args["total_steps"] = _length(config, steps_per_epoch)
    for name in {"base_lr", "max_lr"} & parameters.keys() & args.keys():
        args[name] = _of_each_group(args[name], config, optimizer)
    if config.lr_scheduler.type == "ReduceLROnPlateau":
        args.setdefault("mode", config.trainer.monitor.split()[0])
    component = Component(type=config.lr_scheduler.type, args=args)
    built = KINDS["lr_scheduler"].build(component, config.where("lr_scheduler"), optimizer=optimizer)
    scheduler = Scheduler(built, config.lr_scheduler.interval)
    if scheduler.is_plateau and scheduler.interval == "step":
        raise ConfigError(
            f"{config.where('lr_scheduler.interval')}: ReduceLROnPlateau waits for the validation after an epoch; set "
            'it to "epoch"'
        )
    _try_step(config, scheduler)
    return scheduler


def _of_each_group(rate: Any, config: Config, optimizer: torch.optim.Optimizer) -> Any:
    """A rate that a schedule would set for all weights alike, scaled for the backbone as `backbone_lr` scales `lr`."""
    lr = optimizer.defaults.get("lr")
    if config.optimizer.backbone_lr is None or not lr or not isinstance(rate, (int, float)):
        return rate
    return [rate * group["lr"] / lr for group in optimizer.param_groups]


def _try_step(config: Config, scheduler: Scheduler) -> None:
    """One step, taken back: what only that refuses, such as a step_size of 0, is the config's mistake."""
    schedule, optimizer = scheduler.scheduler, scheduler.scheduler.optimizer
    state = copy.deepcopy(schedule.state_dict())
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped before
            schedule.step(*([0.0] if scheduler.is_plateau else []))
    except (ArithmeticError, TypeError, ValueError, LookupError) as error:
        where, name = config.where("lr_scheduler.args"), type(schedule).__name__
        raise ConfigError(f"{where}: {name} with these args cannot work: {error}") from error
    schedule.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, groups):
        group.update(values)


def _length(config: Config, steps_per_epoch: int) -> int:
    """Of the run, in the schedule's interval."""
    by_step = config.lr_scheduler is not None and config.lr_scheduler.interval == "step"
    return config.trainer.epochs * (steps_per_epoch if by_step else 1)


def _shorter_warm_up(config: Config, steps_per_epoch: int) -> dict[str, int]:
    """{"warm_up": all steps} where the run, say one epoch or one of few images, has fewer than that."""
    schedule, length = config.lr_scheduler, _length(config, steps_per_epoch)
    if schedule is None or schedule.args.get("total_steps") or length >= schedule.args.get("warm_up", 0):
        return {}
    return {"warm_up": length}


def warm_up_notes(config: Config, trainer: BaseTrainer) -> list[str]:
    """About a run that is shorter than its warm-ups."""
    shorter = _shorter_warm_up(config, trainer.steps_per_epoch)
    lines = [
        f"warning: lr_scheduler.args.warm_up: the run has {n} steps, so it is {n}, and the full learning rate is "
        f"reached at the end only; for so short a run set it to about {max(1, n // 10)}"
        for n in shorter.values()
    ]
    return [*lines, *getattr(trainer, "notes", ())]


def check_schedule_reaches(trainer: BaseTrainer) -> None:
    """A schedule of fixed length (OneCycleLR) keeps the length that it was saved with."""
    scheduler = trainer.parts.scheduler
    length = getattr(scheduler.scheduler, "total_steps", None) if scheduler is not None else None
    ticks = trainer.epochs * (trainer.steps_per_epoch if scheduler and scheduler.interval == "step" else 1)
    if length is not None and ticks > length:
        raise ConfigError(
            f"trainer.epochs: {trainer.epochs} is more than the schedule of this run has; "
            f"{trainer.config.lr_scheduler.type if trainer.config.lr_scheduler else ''} cannot be made longer"
        )
