"""What every dataset shares: batches fetched by key, uint8, without state that differs between processes."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from utils.errors import UserError

Batch = dict[str, dict[str, Any]]


class BaseDataset(Dataset, ABC):
    """Turns a batch's keys {stream: (rows, positions)} into {stream: {name: tensor}}.

    A subclass writes `fetch`. Errors travel as data, because a worker process would wrap them into a traceback.
    """

    @abstractmethod
    def fetch(self, stream: str, rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        """The batch of one stream: images uint8 [N, h, w, 3], `row` int64 [N] and whatever the trainer needs.

        rows, positions: int64 [N], in the label frame and in the stream.
        """

    def __getitems__(self, keys: dict[str, tuple[np.ndarray, np.ndarray]]) -> Batch | dict[str, str]:
        try:
            return {stream: self.fetch(stream, *of_stream) for stream, of_stream in keys.items()}
        except UserError as error:
            return {"error": str(error)}


def as_is(batch: Any) -> Any:
    """The collate function: `__getitems__` has already made the batch."""
    return batch


def start_worker(_worker: int) -> None:
    """One thread a worker: OpenCV's and torch's pools would fight over the same cores.

    A stop that reaches the whole process group (Ctrl-C, a job scheduler) is the main process's to handle: it needs its
    workers until the step is finished.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def checked(batch: Any) -> Batch:
    """The batch, or the UserError that a worker met."""
    if "error" in batch:
        raise UserError(batch["error"])
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of the (nested) batch on `device`; copies overlap with computing where memory is pinned."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    return batch.to(device, non_blocking=True)
