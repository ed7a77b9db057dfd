"""Learning-rate schedules that torch does not have; torch.optim.lr_scheduler's are found by name too.

total_steps: length of the schedule in its `interval`; left out, it is the length of the run.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_716(optimizer: Optimizer, *, total_steps: int = 0, warm_up: int = 0) -> LambdaLR:
    """lr · cos(7πk / 16K) after a linear warm-up from 0 (FixMatch, Sohn et al. 2020; ends at 0.195 lr)."""
    return LambdaLR(
        optimizer, lambda k: _warm(k, warm_up) * math.cos(7 * math.pi * _done(k, total_steps, warm_up) / 16)
    )


def cosine(optimizer: Optimizer, *, total_steps: int = 0, warm_up: int = 0, end: float = 0.0) -> LambdaLR:
    """Half a cosine from lr to end · lr after a linear warm-up from 0 over `warm_up` steps."""

    def factor(k: int) -> float:
        half = (1 + math.cos(math.pi * min(1.0, _done(k, total_steps, warm_up)))) / 2
        return _warm(k, warm_up) * (end + (1 - end) * half)

    return LambdaLR(optimizer, factor)


def _warm(k: int, warm_up: int) -> float:
    return k / warm_up if k < warm_up else 1.0


def _done(k: int, total_steps: int, warm_up: int) -> float:
    return 0.0 if k < warm_up else (k - warm_up) / max(1, total_steps - warm_up)
