"""Data-parallel processes started by torchrun; with one process every function here is the identity."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among its peers: rank in [0, size), local_rank on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def join_world(device_type: str) -> World:
    """Join torchrun's process group (NCCL on GPUs, gloo elsewhere), or be a world of one."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=timedelta(minutes=30))
        atexit.register(dist.destroy_process_group)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def is_main_process() -> bool:
    """Whether this process writes files; known before the group is joined."""
    return os.environ.get("RANK", "0") == "0"


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` summed over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool, device: torch.device) -> bool:
    """True everywhere if `flag` is true anywhere."""
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    return bool(sum_over_processes(torch.tensor(float(flag), device=device)).item())


def from_main(value: Any) -> Any:
    """The main process's `value`, everywhere."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def same_buffers(*modules: torch.nn.Module) -> None:
    """The main process's buffers everywhere: DDP hands them out before a forward pass in training only, so that after
    a step every process has running statistics of its own, of which one checkpoint is made."""
    if dist.is_available() and dist.is_initialized():
        for module in dict.fromkeys(modules):
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def wait_for_all() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
