"""How far an epoch is: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from tqdm import tqdm

BAR_SECONDS = 0.5
LINE_SECONDS = 30.0


class Progress:
    """Context manager; `update` once per step.

    On a terminal (stderr) a bar with loss, images/s and time left, redrawn twice a second; otherwise a plain line
    every 30 s, so none for short epochs; nothing at all if not `enabled`. Between two drawings `update` reads the
    clock and nothing else; in particular it does not ask for the loss, which would make the host wait for the device.
    """

    def __init__(self, total_steps: int, start_step: int, desc: str, images_per_step: int, enabled: bool = True):
        self.total, self.done = total_steps, start_step
        self.desc, self.images_per_step = desc, images_per_step
        terminal = enabled and sys.stderr is not None and sys.stderr.isatty()
        self.bar = _bar(total_steps, start_step, desc) if terminal else None
        self.every = (BAR_SECONDS if terminal else LINE_SECONDS) if enabled else float("inf")
        self.steps_per_second = 0.0
        self.drawn_time, self.drawn_done = perf_counter(), start_step
        self.next_time = self.drawn_time + self.every

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            with contextlib.suppress(OSError):
                self.bar.close()

    def update(self, loss: Callable[[], float] | None = None) -> None:
        """One step is done. `loss` is called only when something is drawn."""
        self.done += 1
        if perf_counter() >= self.next_time:
            self._draw(loss)

    def _draw(self, loss: Callable[[], float] | None) -> None:
        note = "" if loss is None else f"  loss {loss():.4f}"
        # The clock is read after the loss: by then the device has done the steps that are counted here.
        now = perf_counter()
        rate = (self.done - self.drawn_done) / (now - self.drawn_time)
        if self.bar is not None and self.steps_per_second:
            rate = 0.3 * rate + 0.7 * self.steps_per_second
        self.steps_per_second = rate
        self.drawn_time, self.drawn_done, self.next_time = now, self.done, now + self.every
        left = tqdm.format_interval(round((self.total - self.done) / rate))
        note += f"  {rate * self.images_per_step:.0f} images/s  {left} left"
        try:
            self._show(note)
        except OSError:
            # The terminal is gone (a closed ssh session); the run is not.
            self.bar, self.next_time = None, float("inf")

    def _show(self, note: str) -> None:
        if self.bar is not None:
            self.bar.n, self.bar.note = self.done, note
            self.bar.refresh()
        elif sys.stderr is not None:
            percent = 100 * self.done / self.total
            print(f"{self.desc}  {percent:.0f} %  {self.done}/{self.total}{note}", file=sys.stderr, flush=True)


class _Bar(tqdm):
    # No watching thread: it would be running when data loader workers fork.
    monitor_interval = 0
    note = ""

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "note": self.note}


def _bar(total: int, start: int, desc: str) -> _Bar:
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{note}"
    # A terminal that reports no size (a container, a script) would get a bar of no columns.
    size_known = min(os.get_terminal_size(sys.stderr.fileno())) > 0
    size: dict[str, Any] = {"dynamic_ncols": True} if size_known else {"ncols": 80, "nrows": 24}
    return _Bar(total=total, initial=start, desc=desc, bar_format=layout, leave=False, file=sys.stderr, **size)
