"""`data_loader.num_workers: auto`: as many processes as the views cost beside the network, measured."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import torch

from base.base_dataset import Batch, to_device
from base.base_trainer import BaseTrainer
from data_loader.face_data import FaceData
from utils.config import apply_overrides

MOST = 8
NEGLIGIBLE = 0.005
TIMED_IMAGES = 8  # on the CPU, where a pass takes as long as it has images


def choose_workers(trainer: BaseTrainer, data: FaceData) -> list[str]:
    """Measure, tell `data`, and write the number into the trainer's config. Returns a line that says so.

    Compared are making one batch in this process and one forward pass of its images, which is the least that a step
    takes: so the views keep up with frozen backbones and views without gradient too. Results do not depend on it.
    """
    batch = data.first_batch()
    make = _seconds(data.first_batch)
    step = _forward_seconds(trainer, batch)
    number = workers_for(make, step, cores() // data.world.size, trainer.device.type == "cpu")
    data.num_workers = number
    changed = apply_overrides(trainer.config, [f"data_loader.num_workers={number}"], catalogue=None)
    trainer.config = trainer.parts.config = changed
    return [f"num_workers: auto chose {number} (a batch takes {make:.3g} s to make, a step at least {step:.3g} s)"]


def workers_for(make: float, step: float, cores: int, on_cpu: bool) -> int:
    """Processes that make a batch in `make` seconds each, for steps of at least `step` seconds.

    None where making takes under half a percent of a step, or where there is no second core for them; at most eight
    and one less than the cores.
    """
    if make < NEGLIGIBLE * step or (on_cpu and cores < 2):
        return 0
    return min(math.ceil(make / step), max(1, min(MOST, cores - 1)))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forward_seconds(trainer: BaseTrainer, batch: Batch) -> float:
    """Of all images of a batch, estimated from one of its views."""
    tensors = [t for stream in batch.values() for t in stream.values() if isinstance(t, torch.Tensor) and t.ndim == 4]
    images = sum(map(len, tensors))
    view = to_device(tensors[0][: TIMED_IMAGES if trainer.device.type == "cpu" else None], trainer.device)

    @torch.no_grad()
    def forward() -> None:
        with trainer.scoring.autocast():
            trainer.model(trainer.normalize(view))
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)

    trainer.model.eval()
    forward()
    return _seconds(forward) * images / len(view)


def _seconds(work: Callable[[], object]) -> float:
    """The faster of two times."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
