"""Learning-rate schedules that torch does not have; torch.optim.lr_scheduler's are found by name too.

total_steps: length of the schedule in its `interval`; left out, it is the length of the run. warm_up: a part of it.
Raises ValueError if one of them is negative or the warm-up is the longer one.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_716(optimizer: Optimizer, *, total_steps: int = 0, warm_up: int = 0) -> LambdaLR:
    """lr · cos(7πk / 16K) after a linear warm-up from 0 (FixMatch, Sohn et al. 2020; ends at 0.195 lr)."""
    _check(total_steps, warm_up)
    return LambdaLR(
        optimizer, lambda k: _warm(k, warm_up) * math.cos(7 * math.pi * _done(k, total_steps, warm_up) / 16)
    )


def cosine(optimizer: Optimizer, *, total_steps: int = 0, warm_up: int = 0, end: float = 0.0) -> LambdaLR:
    """Half a cosine from lr to end · lr after a linear warm-up from 0 over `warm_up` steps."""
    _check(total_steps, warm_up)

    def factor(k: int) -> float:
        half = (1 + math.cos(math.pi * _done(k, total_steps, warm_up))) / 2
        return _warm(k, warm_up) * (end + (1 - end) * half)

    return LambdaLR(optimizer, factor)


def _check(total_steps: int, warm_up: int) -> None:
    for name, value in (("total_steps", total_steps), ("warm_up", warm_up)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if 0 < total_steps < warm_up:
        raise ValueError(f"warm_up must not be more than the {total_steps} steps of the schedule, got {warm_up}")


def _warm(k: int, warm_up: int) -> float:
    return k / warm_up if k < warm_up else 1.0


def _done(k: int, total_steps: int, warm_up: int) -> float:
    return 0.0 if k < warm_up else min(1.0, (k - warm_up) / max(1, total_steps - warm_up))
