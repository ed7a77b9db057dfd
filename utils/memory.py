"""Memory: kept instead of being handed back to the system after every training step, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Tell glibc to re-use the large blocks of activations; True where that was possible.

    By default each is mapped anew and its pages are zeroed by the kernel at every step, which took 48 % of a
    convolutional step on the CPU (docs/performance.md). Other C libraries have no such switch.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        settings = ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
        return all(bool(mallopt(name, value)) for name, value in settings)
    return False


def available_memory() -> int | None:
    """Bytes that a process can still take, by the system and by its container's limit; None where that is not known."""
    found = []
    with contextlib.suppress(OSError, KeyError, ValueError):
        found.append(_table("/proc/meminfo")["MemAvailable:"] * 1024)
    with contextlib.suppress(OSError, KeyError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        # Pages of files count as used, but are given up when memory is needed.
        found.append(limit - used + _table(f"{group}/memory.stat")["file"])
    return min(found, default=None)


def _table(path: str) -> dict[str, int]:
    rows = (line.split() for line in Path(path).read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows}
