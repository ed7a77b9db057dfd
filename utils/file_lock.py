"""Locks between processes that the system releases when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind: there nothing is locked
    fcntl = None  # type: ignore[assignment]


def try_lock(descriptor: int, shared: bool = False) -> bool:
    """Lock an open file until it is closed. False if another process holds it; OSError where locks do not work."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold `path` (made if need be) exclusively; yields False at once if it is taken and not to be waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        got = try_lock(descriptor)
        if not got and wait:
            assert fcntl is not None
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            got = True
        yield got
    finally:
        os.close(descriptor)
