"""Device and precision by name."""

from __future__ import annotations

import torch

from utils.distributed import World
from utils.errors import UserError


def choose_device(name: str, world: World | None = None) -> torch.device:
    """`cpu`, `cuda`, `cuda:N`, `mps` or `auto` (the best there is). Raises UserError for one that is not there."""
    kind, _, index = name.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (index and (kind != "cuda" or not index.isdigit())):
        raise UserError(f"-d {name}: no such device; choose from auto, cpu, cuda, cuda:N, mps")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"-d {name}: torch sees no CUDA device; use -d cpu or -d auto")
        number = int(index) if index else (world.local_rank if world else 0)
        if number >= torch.cuda.device_count():
            raise UserError(f"-d {name}: this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("-d mps: torch sees no Apple GPU; use -d cpu or -d auto")
    return torch.device(kind)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The autocast dtype of `fp32`, `bf16`, `fp16` or `auto`; float32 means no autocast."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32
