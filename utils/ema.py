"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


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

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Average `model`'s current parameters in; copy its buffers."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        self.updates += 1
        averaged, live = ([p.detach() for p in m.parameters()] for m in (self.model, model))
        torch._foreach_lerp_(averaged, live, 1.0 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers()):
            mine.copy_(theirs)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])
