"""Rows and sums over all data-parallel processes, so that every process computes the same running statistics."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from utils.distributed import sum_over_processes


def _size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(tensor: Tensor) -> Tensor:
    """[N, …] of every process, N the same in all -> [N · processes, …], in the order of ranks; without gradient."""
    if _size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_with_gradient(local: Tensor) -> Tensor:
    """As `gather_rows`; this process's own rows keep their gradient."""
    if _size() == 1:
        return local
    parts = list(gather_rows(local.detach()).split(len(local)))
    parts[dist.get_rank()] = local
    return torch.cat(parts)


def own_rows(tensor: Tensor, rows: int) -> Tensor:
    """This process's `rows` rows of what `gather_rows` made."""
    return tensor if _size() == 1 else tensor[dist.get_rank() * rows :][:rows]


def same_in_all(loss: Tensor) -> Tensor:
    """A loss that every process computes from all rows; its gradient is right after DDP's mean over processes."""
    return loss.detach() + _size() * (loss - loss.detach())


def sum_with_gradient(local: Tensor) -> Tensor:
    """`local` summed over processes. A loss of it has, after DDP's mean over processes, the gradient of the sum."""
    if _size() == 1:
        return local
    return sum_over_processes(local.detach().clone()) + _size() * (local - local.detach())
