"""What a training step reads and changes, as plain values and tensors: enough to continue bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from base.speed import lay_out_state
from utils.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer


def training_state(trainer: BaseTrainer) -> dict[str, Any]:
    """Part of a checkpoint. Its tensors are the live ones, not copies."""
    own, scheduler = trainer.trainer_state(), trainer.parts.scheduler
    return {
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.state_dict() if trainer.ema else None,
        "optimizer": trainer.parts.optimizer.state_dict(),
        "scheduler": scheduler.scheduler.state_dict() if scheduler else None,
        "scaler": trainer.scaler.state_dict(),
        "trainer": own.state_dict() if own else None,
        "monitor": trainer.monitor.state_dict(),
        "sums": trainer.sums.state_dict(),
        "step": trainer.step,
        "seconds": trainer.seconds,
        "random": random_state(),
    }


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Undo everything that has happened since `training_state`."""
    trainer.model.load_state_dict(state["model"])
    if trainer.ema is not None and state["ema"] is not None:
        trainer.ema.load_state_dict(state["ema"])
    trainer.parts.optimizer.load_state_dict(state["optimizer"])
    lay_out_state(trainer.parts.optimizer)
    if trainer.parts.scheduler is not None:
        trainer.parts.scheduler.scheduler.load_state_dict(state["scheduler"])
    if state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    own = trainer.trainer_state()
    if own is not None:
        own.load_state_dict(state["trainer"])
    trainer.monitor.load_state_dict(state["monitor"])
    # Sums of all processes were saved; one of them carries them on.
    trainer.sums.load_state_dict(state["sums"] if trainer.world.is_main else {})
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    restore_random_state(state["random"])
