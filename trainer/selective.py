"""FixMatch without the rows that count for nothing: only unlabeled rows with a weight are computed with gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor

from base.base_model import BaseModel
from trainer.pseudo_label.labeler import PseudoLabeler, PseudoLabels
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


def check_leaves_out(config: Config, labelers: Mapping[str, PseudoLabeler]) -> None:
    """Raises ConfigError where a threshold gives every row a weight."""
    for head, labeler in labelers.items():
        if labeler.threshold.weighs_all:
            raise ConfigError(
                f"{config.where('trainer.args.selective')}: {type(labeler.threshold).__name__} gives every row of "
                f"'{head}' a weight, so none can be left out; set selective to false, or threshold to fixed, "
                "flexmatch, freematch or adamatch"
            )


def rows_with_weight(labels: Iterable[PseudoLabels]) -> Tensor:
    """bool [U]: rows that count for at least one head."""
    return torch.stack([of_head.weight != 0 for of_head in labels]).any(dim=0)


def only(labels: PseudoLabels, keep: Tensor) -> PseudoLabels:
    """The pseudo-labels of some rows; keep: bool [U]."""
    of_rows = {field.name: getattr(labels, field.name) for field in fields(labels)}
    return replace(labels, **{name: rows[keep] for name, rows in of_rows.items() if rows is not None})
