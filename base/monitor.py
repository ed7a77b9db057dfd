"""The value that chooses the best checkpoint and stops a run that no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping


class Monitor:
    """monitor: `max NAME` or `min NAME`; patience: stop after exactly this many epochs without improvement, not
    counting those up to `warm_up`.

    Where the value is not measured at every epoch, at the first measurement after as many.
    """

    def __init__(self, monitor: str, patience: int | None):
        self.mode, self.name = monitor.split()
        self.patience = patience
        self.best: float | None = None
        self.best_epoch = 0
        self.bad_epochs = self.warm_up = 0

    def update(self, epoch: int, values: Mapping[str, float]) -> bool:
        """True if this epoch is the best so far; one without the value, or where it is not a number, never is."""
        if self.name not in values:
            return False
        value = values[self.name]
        better = not math.isnan(value) and (
            self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        )
        if better:
            self.best, self.best_epoch, self.bad_epochs = value, epoch, 0
        else:
            self.bad_epochs = max(0, epoch - max(self.best_epoch, self.warm_up))
        return better

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.bad_epochs >= self.patience

    def state_dict(self) -> dict[str, float | int | None]:
        return {"best": self.best, "best_epoch": self.best_epoch, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: Mapping) -> None:
        self.best, self.best_epoch, self.bad_epochs = state["best"], state["best_epoch"], state["bad_epochs"]
