"""Sums on the device, read once an epoch: a true mean over the set, and no synchronisation in the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from utils.distributed import sum_over_processes

TOGETHER = 16  # steps whose rows are counted at once
Count = Callable[..., Tensor | Mapping[str, Tensor]]


class Sums:
    """Named running sums (float64 on the CPU and CUDA, float32 elsewhere) that a checkpoint can hold."""

    def __init__(self, device: torch.device):
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor | float] = {}
        self._later: dict[str, tuple[Count, list[tuple[Tensor, ...]]]] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add each value (any shape, the same at every call) to its sum."""
        for name, value in values.items():
            held = self._sums.get(name)
            if isinstance(held, Tensor):
                held.add_(value.detach() if isinstance(value, Tensor) else value)
            elif isinstance(value, Tensor):
                self._sums[name] = value.detach().to(self.device, self.dtype, copy=True).add_(held or 0.0)
            else:
                self._sums[name] = value + (held or 0.0)

    def add_count(self, name: str, count: Count, *rows: Tensor) -> None:
        """Add `count(*rows)`, a count of rows, or {part: count} as NAME/PART; rows: tensors [N, …] that nobody writes
        to afterwards.

        Some steps' rows are counted together, which costs as much as those of one. Whole numbers and what `exact`
        returns add up exactly, so it does not matter which steps these are, nor where a run stops.
        """
        _, waiting = self._later.setdefault(name, (count, []))
        waiting.append(tuple(tensor.detach() for tensor in rows))
        if len(waiting) >= TOGETHER:
            self._count_waiting(name)

    def read(self) -> dict[str, Tensor]:
        """The sums over all processes, on the CPU; one transfer each."""
        self._count_all()
        return {name: sum_over_processes(value.clone()).cpu() for name, value in sorted(self._tensors().items())}

    def clear(self) -> None:
        self._sums.clear()
        self._later.clear()

    def state_dict(self) -> dict[str, Tensor]:
        self._count_all()
        return {name: value.cpu() for name, value in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._later.clear()
        self._sums = {name: value.to(self.device, self.dtype) for name, value in state.items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {k: torch.as_tensor(v, device=self.device, dtype=self.dtype) for k, v in self._sums.items()}

    def _count_all(self) -> None:
        for name in [*self._later]:
            self._count_waiting(name)

    @torch.no_grad()
    def _count_waiting(self, name: str) -> None:
        count, waiting = self._later.pop(name)
        with torch.autocast(self.device.type, enabled=False):  # bf16 cannot count beyond 256
            found = count(*(torch.cat(rows) for rows in zip(*waiting)))
            self.add({name: found} if isinstance(found, Tensor) else {f"{name}/{k}": v for k, v in found.items()})


def confusion_matrix(predictions: Tensor, target: Tensor, classes: int) -> Tensor:
    """Counts [C, C], rows true, columns predicted, of rows with target ≥ 0; stays on the device without waiting.

    predictions, target: int64 [N].
    """
    names = class_numbers(classes, target.device)[:, None]
    true = (target == names).float()
    return true @ (predictions == names).float().T


def exact(shares: Tensor) -> Tensor:
    """Float64 multiples of 2^-26 near `shares`, in [0, 1]: up to 2^27 of them have the same sum in any order (float32
    where there is no float64, without that)."""
    if shares.device.type == "mps":
        return shares.float()
    return shares.double().mul_(2.0**26).round_().mul_(2.0**-26)


@functools.cache
def class_numbers(count: int, device: torch.device) -> Tensor:
    """int64 [count]: 0, 1, …; made once, not to be written to."""
    with torch.inference_mode(False):
        return torch.arange(count, device=device)
