"""Memory that is kept instead of being handed back to the system after every training step."""

from __future__ import annotations

import contextlib
import ctypes

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
