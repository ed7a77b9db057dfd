"""FixMatch without the rows that count for nothing: only unlabeled rows with a weight are computed with gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from base.base_model import BaseModel
from trainer.pseudo_label.labeler import PseudoLabels
from utils.config import Config
from utils.errors import ConfigError


def check_selective(config: Config, model: BaseModel, weak_forward: str) -> None:
    """Raises ConfigError where leaving out rows would change the others' loss."""
    where = config.where("trainer.args.selective")
    if model.has_batch_norm:
        raise ConfigError(
            f"{where}: batch norm computes a row with the statistics of all, so leaving some out changes the others; "
            'set arch.args.batch_norm to "frozen", or take a backbone without batch norm (convnext, vit, …)'
        )
    if model.balanced_heads is not None:
        raise ConfigError(f"{where}: the balanced heads learn from other rows; set arch.args.head to plain")
    if weak_forward == "joint":
        raise ConfigError(f"{where}: needs the pseudo-labels before the strong views; set weak_forward to auto")


def rows_with_weight(labels: Iterable[PseudoLabels]) -> Tensor:
    """bool [U]: rows that count for at least one head."""
    return torch.stack([of_head.weight != 0 for of_head in labels]).any(dim=0)


def only(labels: PseudoLabels, keep: Tensor) -> PseudoLabels:
    """The pseudo-labels of some rows; keep: bool [U]."""
    soft = None if labels.soft is None else labels.soft[keep]
    return replace(
        labels, target=labels.target[keep], weight=labels.weight[keep], confidence=labels.confidence[keep], soft=soft
    )
