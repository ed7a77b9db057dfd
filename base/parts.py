"""What a trainer is made of; built from a config by `trainer.build`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.base_model import BaseModel
from utils.config import Config
from utils.distributed import World

Loss = Callable[[Tensor, Tensor], Tensor]  # logits [N, C], target int64 [N] -> loss of each row [N]
Metric = Callable[[Tensor], float]  # confusion matrix [C, C], rows true -> value


class TrainingData(Protocol):
    """Batches by number, so that a resumed run starts at its next one."""

    classes: Mapping[str, tuple[str, ...]]
    class_counts: Mapping[str, Tensor]
    images_per_batch: int

    def size(self, split: str) -> int: ...

    def train_batches(self, start: int, stop: int, first: Mapping[str, int]) -> Iterable[Batch]: ...

    def evaluation_batches(self, split: str) -> Iterable[Batch]: ...

    def first_batch(self) -> Batch: ...

    def paths(self, rows: Iterable[int]) -> list[str]: ...

    def state_dict(self) -> dict[str, Any]: ...


@dataclass
class Scheduler:
    """A torch scheduler and when it steps; plateau schedulers take the monitored value."""

    scheduler: Any
    interval: str

    @property
    def is_plateau(self) -> bool:
        return isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


@dataclass
class Parts:
    """model: on its device. losses: head -> (loss, weight). metrics: head -> {name: metric}.

    progress: float32 [], the share of the steps that are done, for losses that change with it.
    """

    config: Config
    model: BaseModel
    data: TrainingData
    losses: Mapping[str, tuple[Loss, float]]
    metrics: Mapping[str, Mapping[str, Metric]]
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | None
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    device: torch.device
    dtype: torch.dtype
    world: World
    steps_per_epoch: int
    environment: dict[str, Any]
    progress: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def learned(self) -> list[str]:
        """The heads whose loss has a weight above 0."""
        return [head for head, (_, weight) in self.losses.items() if weight > 0]
