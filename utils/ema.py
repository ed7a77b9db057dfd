"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Averaged copy of `model` for evaluation: parameters averaged, buffers copied (FixMatch, Sohn et al. 2020).

    decay: in [0, 1). warm_up: use min(decay, (1 + t) / (10 + t)) at update t, since a short run would otherwise
    keep most of its initial weights (0.999 keeps 37 % of them after 1,000 steps).
    """

    def __init__(self, model: nn.Module, decay: float, warm_up: bool = True):
        self.decay = decay
        self.warm_up = warm_up
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        # What training changes, found once instead of at every step.
        averaged = dict(self.model.named_parameters())
        trained = {name: live for name, live in model.named_parameters() if live.requires_grad}
        self._averaged: list[Tensor] = [averaged[name] for name in trained]
        self._live: list[Tensor] = list(trained.values())
        frozen = set(getattr(model, "frozen_batch_norms", ()))
        modules = [name for name, module in model.named_modules() if module._buffers and name not in frozen]
        self._buffers = [
            (self.model.get_submodule(name)._buffers, model.get_submodule(name)._buffers) for name in modules
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Average the live model's current parameters in; copy its buffers."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        self.updates += 1
        torch._foreach_lerp_(self._averaged, self._live, 1.0 - decay)
        # By name, since a module may bind a new tensor to it.
        pairs = [(mine[name], theirs[name]) for mine, theirs in self._buffers for name in mine]
        buffers = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
        if buffers:
            torch._foreach_copy_([mine for mine, _ in buffers], [theirs for _, theirs in buffers])

    def state_dict(self) -> dict:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])
