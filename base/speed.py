"""How a step is computed: number format, memory layout, compiler and threads. What it computes stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.config.schema import Trainer

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Settings:
    """dtype: of autocast, float32 for none. threads: of torch on the CPU; None leaves them as they are."""

    dtype: torch.dtype
    memory_format: str = "channels_last"
    compile: bool = False
    threads: int | None = None

    @classmethod
    def of(cls, config: Trainer, dtype: torch.dtype) -> Settings:
        """Those of `trainer.speed`; with "auto" or null what needs no measuring."""
        chosen = None if isinstance(config.speed, str) else config.speed
        return cls(dtype, **chosen.model_dump()) if chosen is not None else cls(dtype)

    @property
    def precision(self) -> str:
        """The name that `trainer.precision` has for the dtype."""
        return _NAMES[self.dtype]

    def for_config(self) -> dict[str, Any]:
        """The value of `trainer.speed`."""
        return {"memory_format": self.memory_format, "compile": self.compile, "threads": self.threads}

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        return f"{self.precision}, {self.memory_format}{', compiled' if self.compile else ''}{threads}"


def use(trainer: BaseTrainer, settings: Settings) -> None:
    """Compute the steps from here on with `settings`."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    trainer.parts.dtype = settings.dtype
    trainer.scaler = torch.amp.GradScaler(trainer.device.type, enabled=settings.dtype == torch.float16)
    trainer.normalize.memory_format = _MEMORY_FORMATS[settings.memory_format]
    for model in (trainer.model, trainer.ema.model if trainer.ema else nn.Module()):
        lay_out(model, trainer.normalize.memory_format)
    lay_out_state(trainer.parts.optimizer)
    # Where batches keep their shapes, a network that is general in them would be slower.
    varying = getattr(trainer, "selective", False)
    network: Any = torch.compile(trainer.model, dynamic=varying) if settings.compile else trainer.model
    if trainer.world.size > 1:
        ids = [trainer.device.index] if trainer.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=ids)
    trainer.network = network
    # Compiled code is for batches of one shape.
    trainer.leaves_out_rows = trainer.model.leaves_out_rows and not settings.compile


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Arrange the weights of convolutions, in place.

    `Module.to` leaves alone what fits both formats, such as 1 x 1 kernels, so that the result would depend on the
    format before; the choice of kernels, and with it the last bit, depends on the strides.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = torch.empty_like(tensor.data, memory_format=memory_format).copy_(tensor.data)


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Arrange what the optimizer keeps of each weight as the weight: torch's fused updates on the CPU go through the
    memory of both, whatever the order of values in it."""
    for weight, kept in optimizer.state.items():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.shape == weight.shape and value.stride() != weight.stride():
                kept[name] = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)
