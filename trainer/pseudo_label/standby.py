"""Alignment that is switched on in the course of a run (`on_collapse: align`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from base.parts import Parts
from trainer.pseudo_label.align import prior
from trainer.pseudo_label.weak_batch import Labeled
from utils.errors import ConfigError

# A network that collapses changes quickly; a mean over the last hundred steps would run after it.
_MOMENTUM = 0.9


class Standby(prior):
    """`align: prior` that leaves probabilities as they are until `on`, which is in the checkpoint."""

    on = False

    def forward(self, probs: Tensor, labeled: Labeled | None = None, progress: float = 0.0) -> Tensor:
        return super().forward(probs, labeled, progress) if self.on else probs

    def get_extra_state(self) -> dict[str, Any]:
        return {"on": self.on}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.on = state["on"]


def stand_by(labelers: nn.ModuleDict, parts: Parts) -> None:
    """Give every labeler without alignment one that can be switched on. Raises ConfigError if all have one."""
    without = [head for head, labeler in labelers.items() if labeler.align is None]
    if not without:
        raise ConfigError(
            f"{parts.config.where('trainer.args.on_collapse')}: align has nothing to switch on, since "
            "trainer.args.align is configured; set it to warn, warm_up or stop"
        )
    for head in without:
        labelers[head].align = Standby(parts.data.class_counts[head], momentum=_MOMENTUM).to(parts.device)
