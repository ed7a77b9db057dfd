"""Commands of the project that another one runs, and that are stopped with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

T = TypeVar("T")
R = TypeVar("R")
PROJECT = Path(__file__).resolve().parents[1]


@contextmanager
def stop_signals_exit() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as an exception does, so that what it started is stopped too."""

    def stopped(number: int, _frame: Any) -> NoReturn:
        print("stopped; the same command continues", file=sys.stderr)
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Children:
    """environment: of the commands, left out: that of this process. May be used by several threads."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        self.environment = dict(os.environ) if environment is None else environment
        self._running, self.stopping = set[subprocess.Popen](), False

    def run(
        self, command: Sequence[str], output: IO[bytes] | None = None, tell: Callable[[str], None] | None = None
    ) -> int:
        """The exit code of `command` (a script of the project and its arguments).

        output: the file for what it says; tell: called with each line instead; neither: it says it where we do.
        """
        said = subprocess.PIPE if tell is not None else output
        # A session of its own: Ctrl-C reaches only us, who then ask every child once to save and stop.
        child = subprocess.Popen(
            [sys.executable, str(PROJECT / command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=None if said is None else subprocess.STDOUT,
            env={"PYTHONUNBUFFERED": "1", **self.environment},
            start_new_session=True,
        )
        self._running.add(child)
        if self.stopping:
            child.send_signal(signal.SIGTERM)
        if tell is not None and child.stdout is not None:
            for line in child.stdout:
                tell(line.decode(errors="replace").rstrip("\n"))
        code = child.wait()
        self._running.discard(child)
        return code

    def each(self, work: Callable[[T], R], items: Iterable[T], at_once: int) -> Generator[tuple[T, R], None, None]:
        """Each item with what `work` of it returns, as they end; what still runs when this is closed is stopped."""
        pool = ThreadPoolExecutor(at_once)
        try:
            futures = {pool.submit(work, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self.stop()
            pool.shutdown(wait=True)

    def stop(self) -> None:
        """Ask every running command to save and stop, and those that begin later too."""
        self.stopping = True
        for child in list(self._running):
            child.send_signal(signal.SIGTERM)
