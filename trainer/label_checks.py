"""Whether the labels are such that what a config asks for can be learned and scored."""

from __future__ import annotations

from typing import Any

import pandas as pd

from data_loader.prepare_labels import Labels
from data_loader.split import label_digest
from utils.config import Config
from utils.errors import ConfigError, UserError, did_you_mean
from utils.joint import JOINT


def check_heads(config: Config, labels: Labels) -> None:
    """What is said per head must be about heads; attributes that are not in use here may be named too."""
    heads, known = labels.frame.classes, {"default", *labels.frame.rows.columns}
    for section in ("loss", "metrics"):
        said = getattr(config, section)
        for head in said if isinstance(said, dict) else ():
            if head not in known:
                place = config.where(f"{section}.{head}")
                raise ConfigError(f"{place}: the data has no attribute '{head}'{did_you_mean(head, heads)}")
    if heads and all(_is_off(config, head) for head in heads):
        raise ConfigError(f"{config.where('loss')}: the weight of every head is 0, so that nothing would be learned")


def _is_off(config: Config, head: str) -> bool:
    """Whether nothing is learned from the head's labels."""
    return getattr(config.loss_of(head), "weight", 1) == 0


def check_same_labels(labels: Labels, state: dict[str, Any]) -> None:
    """Raises UserError if the labels are not those that the run started with: their classes are its outputs."""
    for head in {**state["classes"], **labels.frame.heads}:
        known, now = state["classes"].get(head, ()), labels.frame.heads.get(head, ())
        if tuple(known) != tuple(now):
            raise UserError(
                f"-r: the run learns the classes {', '.join(known) or 'of no such attribute'} of '{head}', today's "
                f"labels have {', '.join(now) or 'none'}; bring the labels back, or start a new run"
            )
    if state["data"].get("labels") not in (None, label_digest(labels.frame)):
        raise UserError(
            "-r: labels of some images have changed since the run started, so it would not be continued but another "
            "run; bring them back, or start a new run"
        )


def check_classes(config: Config, labels: Labels) -> list[str]:
    """Warnings about classes without a training label. Raises UserError if there is no such label at all, and for a
    head that has labels of one class only, since a run on it would look perfect and learn nothing."""
    if not labels.frame.labeled[labels.split == "train"].any():
        raise UserError("no training image has a label; look at split and labels.labeled")
    warnings = []
    for head, names in labels.frame.heads.items():
        if _is_off(config, head):
            continue
        values = labels.frame.rows.loc[labels.split == "train", head]
        missing = [name for number, name in enumerate(names) if not (values == number).any()]
        if len(missing) == len(names) - 1:
            only = next(name for name in names if name not in missing)
            raise UserError(
                f"{head}: all {int((values >= 0).sum()):,} training labels are '{only}', so there is nothing to tell "
                "apart; look at labels.filters, labels.merge, labels.labeled and the table of labels"
            )
        if len(missing) == len(names):
            raise UserError(
                f"{head}: no training image has a label of it; leave it out of dataset.attributes, or set "
                f"loss.{head}.weight to 0"
            )
        if missing:
            warnings.append(f"warning: {head}: no label to train with is of class {', '.join(map(repr, missing))}")
    return warnings


def check_scored(config: Config, labels: Labels) -> list[str]:
    """Warnings about heads that no validation image is labeled for. Raises ConfigError if the monitored value needs
    such images, since then no epoch would ever be the best."""
    heads, rows = labels.frame.heads, labels.frame.rows[(labels.split == "valid") & labels.frame.labeled]
    labeled = {head: rows[head] >= 0 for head in heads}
    unscored = [head for head in heads if not labeled[head].any()]
    split, *of_head = config.trainer.monitor.split()[-1].split("/")[:-1]
    if len(rows) and split == "valid":
        where = config.where("trainer.monitor")
        if of_head == [JOINT] and JOINT not in heads and not pd.DataFrame(labeled).all(axis=1).any():
            raise ConfigError(f"{where}: no validation image is labeled for all of {', '.join(heads)}")
        asked = of_head or [head for head in heads if not _is_off(config, head)]
        if asked and set(asked) <= set(unscored):
            raise ConfigError(f"{where}: no validation image has a label of '{asked[0]}'; look at split")
    return [f"warning: {head}: no validation image has a label, so it is not scored" for head in unscored if len(rows)]
