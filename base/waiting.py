"""How long a training waits for its data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from base.base_dataset import Batch
    from utils.config import Config

# The column of metrics.csv that it is logged in; a timing, as `seconds`, that differs from run to run.
DATA_WAIT = "train/data_wait"
TIMINGS = ("seconds", DATA_WAIT)
_MUCH, _WORTH_A_WORD = 0.2, 2.0


class Waiting:
    """The share of the time of training steps that is spent in waiting for batches.

    What starting the workers takes before the first batch is not counted. A run that continues in the middle of an
    epoch measures the rest of it.
    """

    def __init__(self) -> None:
        self.waited = self.computed = self.last = self.last_seconds = 0.0
        self._since: float | None = None  # the last batch was handed out then
        self._told = False

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """`batches`, with the time that each takes to arrive."""
        source = iter(batches)
        for batch in source:  # the first
            while True:
                self._since = perf_counter()
                yield batch
                asked = self._computed()
                try:
                    batch = next(source)
                except StopIteration:
                    return
                self.waited += perf_counter() - asked

    def _computed(self) -> float:
        now = perf_counter()
        if self._since is not None:
            self.computed += now - self._since
            self._since = None
        return now

    def share(self) -> float:
        """In [0, 1]; call it when the last step of the epoch is done. The next epoch begins."""
        self._computed()
        total = self.waited + self.computed
        self.last, self.last_seconds = self.waited / max(total, 1e-9), self.waited
        self.waited = self.computed = 0.0
        return self.last

    def notes(self, config: Config) -> list[str]:
        """What to do about much waiting in the epoch that `share` ended; said once."""
        if self.last <= _MUCH or self.last_seconds < _WORTH_A_WORD or self._told:
            return []
        self._told = True
        loader, cores = config.data_loader, os.cpu_count() or 1
        remedies = ["data_loader.cache=disk or ram"] if loader.cache == "off" else []
        if isinstance(loader.num_workers, int) and loader.num_workers < cores - 1:
            remedies.append(f"data_loader.num_workers above {loader.num_workers}")
        remedies.append("cheaper views or a smaller views.size")
        share = f"{100 * self.last:.0f} % of the training's time went by waiting for data"
        return [f"warning: {share}; try {', '.join(remedies)}"]
