"""Sums on the device, read once an epoch: a true mean over the set, and no synchronisation in the loop."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from utils.distributed import sum_over_processes


class Sums:
    """Named running sums (float64 on the CPU and CUDA, float32 elsewhere) that a checkpoint can hold."""

    def __init__(self, device: torch.device):
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add each value (any shape, the same at every call) to its sum."""
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            held = self._sums.get(name)
            if held is None:
                self._sums[name] = torch.as_tensor(value, device=self.device).to(self.dtype, copy=True)
            else:
                held.add_(value)

    def read(self) -> dict[str, Tensor]:
        """The sums over all processes, on the CPU; one transfer each."""
        return {name: sum_over_processes(value.clone()).cpu() for name, value in sorted(self._sums.items())}

    def clear(self) -> None:
        self._sums.clear()

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._sums = {name: value.to(self.device, self.dtype) for name, value in state.items()}


def confusion_matrix(predictions: Tensor, target: Tensor, classes: int) -> Tensor:
    """Counts [C, C], rows true, columns predicted, of rows with target ≥ 0; stays on the device without waiting.

    predictions, target: int64 [N].
    """
    names = _numbers(classes, target.device)
    true = (target == names).float()
    return true @ (predictions == names).float().T


@functools.cache
def _numbers(count: int, device: torch.device) -> Tensor:
    """[count, 1]: 0, 1, …"""
    with torch.inference_mode(False):
        return torch.arange(count, device=device)[:, None]
