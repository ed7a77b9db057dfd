"""BaseModel: what the trainers expect of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from utils.errors import UserError


class BaseModel(nn.Module, ABC):
    """A network that returns the logits of every head.

    A submodule named `backbone`, if there is one, may have its own learning rate; everything else counts as head.
    A subclass that freezes batch norm layers lists their module names in `frozen_batch_norms`: these layers stay in
    evaluation mode whatever `train()` is told. `balanced_heads`, where there are any, hold a second classifier for all
    or some heads: their logits are "HEAD/balanced" in training mode and take the head's place in evaluation mode. Where
    there is a `projection`, training mode returns {"projection": features behind it [N, D]} and no logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen_batch_norms: tuple[str, ...] = ()
        self.balanced_heads: nn.ModuleDict | None = None
        self.projection: nn.Module | None = None

    @abstractmethod
    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        """images: float [N, 3, H, W], normalised. Returns {head: logits float [N, C]}, never probabilities.

        The first `clean` rows are those that pseudo-labels are read from: no dropout for them.
        """

    @property
    def leaves_out_rows(self) -> bool:
        """Whether `forward` takes `rows` {head: bool [N]}: those that count for each head. The logits of the others may
        be anything finite, and cost less."""
        return False

    @property
    def head_kind(self) -> str:
        """What is trained besides the backbone: "plain" heads, "abc" or "simclr" (`arch.args.head`)."""
        return "abc" if self.balanced_heads is not None else "plain" if self.projection is None else "simclr"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen_batch_norms:
            self.get_submodule(name).eval()
        return self

    @property
    def has_batch_norm(self) -> bool:
        """Whether a batch norm layer would use the statistics of the batch in train mode."""
        return any(
            isinstance(module, _BatchNorm) and name not in self.frozen_batch_norms
            for name, module in self.named_modules()
        )

    def parameter_groups(
        self, lr: float, backbone_lr: float | None = None, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """The trainable parameters as optimizer groups: backbone and head, each with and without weight decay.

        Vectors and scalars (biases, norm layers, layer scales) are not decayed. Their shape tells, not their name:
        a norm layer may be called `downsample.1`. Groups without parameters are left out.
        Raises UserError if `backbone_lr` is given and the model has no backbone.
        """
        named = dict(self.named_parameters())
        if backbone_lr is not None and not any(name.startswith("backbone.") for name in named):
            raise UserError(f"optimizer.backbone_lr: {type(self).__name__} has no submodule named 'backbone'")
        groups: dict[str, dict[str, Any]] = {}
        for part, part_lr in (("backbone", lr if backbone_lr is None else backbone_lr), ("head", lr)):
            groups[part] = {"name": part, "params": [], "lr": part_lr, "weight_decay": weight_decay}
            groups[f"{part}_no_decay"] = {"name": f"{part}_no_decay", "params": [], "lr": part_lr, "weight_decay": 0.0}
        for name, parameter in named.items():
            if parameter.requires_grad:
                part = "backbone" if name.startswith("backbone.") else "head"
                groups[part if parameter.ndim > 1 else f"{part}_no_decay"]["params"].append(parameter)
        return [group for group in groups.values() if group["params"]]

    def summary(self) -> str:
        """One line: the class and its number of parameters, total and trainable."""
        total = sum(parameter.numel() for parameter in self.parameters())
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return f"{type(self).__name__}: {total:,} parameters, {trainable:,} trainable"
