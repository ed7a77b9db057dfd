"""Whether the labels are such that what a config asks for can be learned and scored."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from data_loader.age import boundaries_of
from data_loader.label_frame import DATA_SET
from data_loader.prepare_labels import Labels
from data_loader.split_file import label_digest
from model.loss import COSINE_SCALE
from utils.config import Component, Config
from utils.errors import ConfigError, UserError, did_you_mean
from utils.joint import JOINT

SAYS_NOTHING = ("?", "-", "n/a", "na", "null", "unknown", "tbd")
MANY_FOLDERS, FEW_IMAGES = 10, 30  # folders that may be persons rather than classes or archives


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


def check_losses(config: Config, labels: Labels) -> list[str]:
    """Notes about losses that go by the order of the classes, or correct an imbalance that the sampler corrects too.
    Raises ConfigError for classes without an order, for ages in another one, and for angles of linear classifiers."""
    notes = []
    sampler = config.data_loader.sampler
    kind, by = (sampler, None) if isinstance(sampler, str) else (sampler.type, sampler.args.by)
    balanced = list(labels.frame.heads) if by is None else [by] if isinstance(by, str) else by
    for head, names in labels.frame.heads.items():
        if _is_off(config, head):
            continue
        evens_out = kind in ("balanced", "weighted") and head in balanced
        for loss, where in _parts_of(config, head):
            if loss.type == "ordinal":
                rising = tuple(sorted(names, key=_first_year))
                if head == JOINT or (rising != names and boundaries_of(rising) is not None):
                    why = "is a combination of attributes" if head == JOINT else f"are in the order {', '.join(names)}"
                    advice = "use another loss" if head == JOINT else f"give dataset.args.classes: {', '.join(rising)}"
                    raise ConfigError(f"{where}: ordinal goes by the order of the classes; '{head}' {why}; {advice}")
                notes.append(f"ordinal loss of {head}: {' < '.join(names)}")
            if loss.type == "arcface" and config.arch.type == "FaceClassifier":
                wanted, given = loss.args.get("scale", COSINE_SCALE), config.arch.args.get("cosine_scale")
                if wanted != given:
                    is_now = "its classifiers are linear" if given is None else f"it is {given}"
                    raise ConfigError(
                        f"{where}: arcface takes cosines times its scale {wanted:g}; set arch.args.cosine_scale to "
                        f"{wanted:g} ({is_now})"
                    )
            doubled = loss.type == "logit_adjustment" or loss.args.get("class_weight") is not None
            if evens_out and doubled:
                notes.append(
                    f"warning: {where} ({loss.type}) and data_loader.sampler both correct the imbalance of {head}, so "
                    "it is corrected twice; keep one of them, and make the other cross_entropy or random"
                )
    return notes


def class_notes(config: Config, labels: Labels) -> list[str]:
    """Warnings about classes whose names say that there is no label, unless the config gives the classes."""
    notes = []
    declared = {head for _, part in config.data_sets for head in part.args.get("classes") or ()}
    for head, names in labels.frame.heads.items():
        nothing = [name for name in names if name.casefold() in SAYS_NOTHING]
        if nothing and head not in declared:
            listed = ", ".join(f'"{name}"' for name in nothing)
            notes.append(
                f"warning: {head}: {listed} is a class like the others; if it means 'not labeled', say so in "
                f'labels.merge: "unlabeled": [{listed}]'
            )
    return notes


def _parts_of(config: Config, head: str) -> list[tuple[Component, str]]:
    """A head's loss, or those that a mixture adds, and where they are in the config."""
    loss = config.loss_of(head)
    if loss is None:
        return []
    name = head if isinstance(config.loss, dict) and head in config.loss else "default"
    where = config.where(f"loss.{name}" if isinstance(config.loss, dict) else "loss")
    if loss.type != "mixture":
        return [(loss, where)]
    parts: list[Any] = [{"type": part} if isinstance(part, str) else part for part in loss.args.get("parts", ())]
    return [(Component.model_validate(part), where) for part in parts]


def _first_year(name: str) -> float:
    found = re.search(r"\d+", name)
    return -1.0 if name.startswith("<") or found is None else float(found[0])


def group_notes(labels: Labels) -> list[str]:
    """Whether images belong together, for scores are too good where a person is in training and in validation."""
    rows, notes = labels.frame.rows, []
    for part in labels.frame.parts():
        of_part = rows.iloc[part]
        groups, title = of_part["group"].nunique(), ""
        if labels.frame.roots:
            title = f" of {of_part[DATA_SET].iloc[0]}"
        if groups < len(of_part):
            notes.append(f"groups{title}: {groups:,} of {len(of_part):,} images; none is on two sides of the split")
            continue
        notes.append(f"groups{title}: none, each of {len(of_part):,} images is for itself")
        folder = of_part["path"].str.rpartition("/")[0]
        sizes = folder.value_counts()
        sides = labels.split.iloc[part].groupby(folder.to_numpy()).nunique()
        torn = sides.index[sides > 1]
        of_classes = len(sizes) in map(len, labels.frame.heads.values())
        if len(sizes) >= MANY_FOLDERS and sizes.median() <= FEW_IMAGES and len(torn) and not of_classes:
            notes.append(
                f"warning: split: {len(torn):,} of {len(sizes):,} folders have images on two sides (such as {torn[0]});"
                " if a folder is a person, scores are too good: say so with dataset.args.group"
            )
    return notes


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
