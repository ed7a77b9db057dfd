"""SIGTERM and SIGINT as a request to stop after the current step."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """While entered, the first SIGTERM/SIGINT sets `.received`; a second one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number


class Stopped(Exception):
    """The run stopped on a signal, its checkpoint safely on disk; `exit_code` is 130 or 143."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number
