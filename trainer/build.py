"""A trainer from a config: every part is made and tried before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.parts import Loss, Metric, Parts, TrainingData
from base.scoring import Normalize
from data_loader.cache import Images, UndecodableImages, open_images
from data_loader.data_sets import label_table
from data_loader.face_data import FaceData
from data_loader.image_reader import ImageReader
from data_loader.prepare_labels import Labels, prepare_labels
from model.classifier import check_logits
from trainer.components import KINDS
from trainer.frozen import feature_data, is_frozen
from trainer.label_checks import (
    check_classes,
    check_heads,
    check_losses,
    check_same_labels,
    check_scored,
    class_notes,
    group_notes,
)
from trainer.optimizer import build_optimizer
from trainer.schedule import build_scheduler, check_schedule_reaches, warm_up_notes
from trainer.seen_images import seen_by_weights
from trainer.speed import check_speed, choose_speed, record_precision
from trainer.workers import choose_workers
from utils.command import OUT_OF_MEMORY
from utils.config import Component, Config, says_where
from utils.device import choose_dtype
from utils.distributed import World
from utils.errors import ConfigError, UserError
from utils.memory import keep_freed_memory
from utils.random_state import seed_everything

NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass
class Built:
    """A trainer ready to run, its labels, and lines about what was read."""

    trainer: BaseTrainer
    labels: Labels
    notes: list[str]


@says_where
def build_trainer(
    config: Config,
    device: torch.device,
    world: World,
    environment: dict[str, Any],
    split: Any = None,
    state: dict[str, Any] | None = None,
    tell: Any = print,
) -> Built:
    """Make every part, feed it one batch, and load `state` where a run continues. Raises UserError; writes no run."""
    seed_everything(config.seed)
    if device.type == "cpu":
        keep_freed_memory()
    labels = prepare_labels(config, split, tell=tell)
    if state is not None:
        check_same_labels(labels, state)
    trainer_type = KINDS["trainer"].find(config.trainer.type, config.where("trainer.type"))
    streams, learns_labels = getattr(trainer_type, "streams"), "plain" in getattr(trainer_type, "trains_heads")  # noqa: B009
    check_heads(config, labels)
    about_losses = check_losses(config, labels) if learns_labels and state is None else []
    without = [*check_classes(config, labels), *check_scored(config, labels)] if learns_labels else []
    heads = {head: len(names) for head, names in labels.frame.heads.items()}
    model = build_model(config, heads, load_weights=state is None).to(device)
    optimizer = build_optimizer(config, model)
    check_speed(config, device, is_new=state is None)
    # After what can be wrong with the parts above: images may take minutes to decode.
    data = FaceData(config, labels, open_run_images(config, labels, tell), streams, device, world)
    known = state["data"].get("weights_saw") if state is not None else None
    data.weights_saw = seen_by_weights(config, labels) if known is None else known
    normalization = choose_normalization(config, model)
    dtype = choose_dtype(config.trainer.precision, device)
    batches: TrainingData = data
    if config.data_loader.feature_views is not None:
        if state is not None:
            model.load_state_dict(state["model"])
        batches = feature_data(config, data, model, Normalize(*normalization, device), dtype, world, tell)
    steps = config.trainer.steps_per_epoch or -(-data.steps_per_pass() // config.trainer.accumulate)
    progress = torch.zeros((), device=device)
    parts = Parts(
        config=config,
        model=model,
        data=batches,
        losses={head: _loss(config, head, data.class_counts[head].to(device), progress) for head in data.classes},
        metrics={head: _metrics(config, head) for head in data.classes},
        optimizer=optimizer,
        scheduler=build_scheduler(config, optimizer, steps),
        normalization=normalization,
        device=device,
        dtype=dtype,
        world=world,
        steps_per_epoch=steps,
        environment=environment,
        progress=progress,
    )
    component = Component(type=config.trainer.type, args=config.trainer.args)
    trainer = KINDS["trainer"].build(component, config.where("trainer"), KINDS, parts=parts)
    _try_batch(trainer)
    if state is not None:
        trainer.load_state_dict(state)
        check_schedule_reaches(trainer)
    measured = choose_speed(trainer, config.trainer.precision) if config.trainer.speed == "auto" else []
    record_precision(trainer)
    if config.data_loader.num_workers == "auto" and batches is data:
        measured += choose_workers(trainer, data)
    weights = getattr(model, "weight_report", None)
    notes = [
        *labels.frame.history,
        *describe_split(labels),
        *group_notes(labels),
        *class_notes(config, labels),
        *without,
        *about_losses,
        *data.notes,
        model.summary(),
        *warm_up_notes(config, trainer),
        *_short_notes(config),
        *([weights.line()] if weights else []),
        *(
            f"warning: {seen}; scores are too good where these are the same images: keep that run's split with "
            "split.from (its split.csv)"
            for seen in data.weights_saw["said"]
        ),
    ]
    if is_frozen(model) and config.data_loader.feature_views is None:
        notes.append(
            "no gradient reaches the backbone: data_loader.feature_views=1 would compute its features only once"
        )
    return Built(trainer, labels, [*notes, *measured])


def _short_notes(config: Config) -> list[str]:
    """What is seldom meant."""
    notes = []
    lr, backbone_lr = config.optimizer.args.get("lr"), config.optimizer.backbone_lr
    if backbone_lr is not None and isinstance(lr, int | float) and backbone_lr > lr:
        notes.append(
            f"warning: optimizer.backbone_lr {backbone_lr:g} is above optimizer.args.lr {lr:g}, which the heads have"
        )
    if config.trainer.epochs == 1:
        notes.append("warning: trainer.epochs: one epoch is a trial; a model is seldom to be judged by it")
    return notes


def open_run_images(config: Config, labels: Labels, tell: Any) -> Images:
    """The decoded images of a run's rows."""
    try:
        return open_files(config, [labels.frame.file(path) for path in labels.frame.rows["path"]], tell)
    except UndecodableImages as error:
        way = 'mend them, or leave them out by rows of labels.corrections (field "image", to "drop")'
        raise UserError(f"{error}\n{way}") from None


def open_files(config: Config, files: Sequence[Path], tell: Any) -> Images:
    """Any images as the config's training decodes its own."""
    folder = Path(config.trainer.save_dir) / ".cache"
    return open_images(files, ImageReader.of(config.views), config.data_loader.cache, folder, tell)


@says_where
def build_model(config: Config, heads: dict[str, int], load_weights: bool) -> BaseModel:
    """heads: name -> classes. load_weights False: the state comes from a checkpoint, so nothing is downloaded."""
    return KINDS["arch"].build(config.arch, config.where("arch"), heads=heads, load_weights=load_weights)


def choose_normalization(config: Config, model: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) in units of a [0, 1] image."""
    wanted = config.views.normalize
    if wanted == "auto":
        return model.normalization
    if isinstance(wanted, str):
        return NORMALIZATIONS[wanted]
    return tuple(wanted.mean), tuple(wanted.std)


def describe_split(labels: Labels) -> list[str]:
    """Images per split and class, one line per attribute and split; before them who has which labels, if some lack."""
    rows, lines = labels.frame.rows, label_table(labels.frame, labels.split)
    for head, names in labels.frame.classes.items():
        for split in ("train", "valid", "test"):
            values = rows.loc[labels.split == split, head]
            if len(values):
                counts = ", ".join(f"{name} {int((values == i).sum()):,}" for i, name in enumerate(names))
                lines.append(f"{split} {head}: {counts}; without label {int((values < 0).sum()):,}")
    return lines


def _loss(config: Config, head: str, class_counts: torch.Tensor, progress: torch.Tensor) -> tuple[Loss, float]:
    loss, where, weight = config.loss, "loss", 1.0
    if isinstance(loss, dict):
        name = head if head in loss else "default"
        if name not in loss:
            raise ConfigError(f"{config.where('loss')}: no loss for the head '{head}' and no 'default'")
        of_head = loss[name]
        loss, where, weight = of_head, f"loss.{name}", of_head.weight
    function = KINDS["loss"].build(loss, config.where(where), class_counts=class_counts, progress=progress)
    try:
        labeled_and_not = torch.tensor([0, -1], device=class_counts.device)
        of_rows = function(class_counts.new_zeros(2, len(class_counts)), labeled_and_not)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config.where(where)}.args: {loss.type}: {error}") from error
    if of_rows.shape != (2,) or of_rows[1] != 0:
        raise ConfigError(f"{config.where(where)}.type: {loss.type}: must give the loss of each row, 0 without a label")
    return function, weight


def _metrics(config: Config, head: str) -> dict[str, Metric]:
    names = config.metrics
    if isinstance(names, dict):
        if head not in names and "default" not in names:
            raise ConfigError(f"{config.where('metrics')}: no metrics for the head '{head}' and no 'default'")
        names = names.get(head, names.get("default", []))
    return {name: KINDS["metric"].find(name, "metrics") for name in names}


def _try_batch(trainer: BaseTrainer) -> None:
    """One batch through views and network, so that what cannot work fails before a run folder exists."""
    required = getattr(trainer.model, "required_size", None)
    if required is not None and required != trainer.config.views.shape:
        raise ConfigError(
            f"{trainer.config.where('views.size')}: this backbone takes {required[0]} x {required[1]} pixels only, "
            f"got {trainer.config.views.size}"
        )
    data = trainer.data
    stream, views = next(iter(trainer.streams.items()))
    faces = data.first_batch()[stream]
    model = trainer.model.eval()
    images = trainer.normalize(faces[next(iter(views))].to(trainer.device))
    try:
        with torch.no_grad():
            logits = model(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        if any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        height, width = trainer.config.views.shape
        raise ConfigError(
            f"{trainer.config.where('views.size')}: the network does not take images of {height} x {width} pixels "
            f"({(str(error) or type(error).__name__).splitlines()[0]}); choose another size or arch.args.backbone"
        ) from error
    for head, names in data.classes.items():
        check_logits(logits[head], head)
        if logits[head].shape != (len(faces["row"]), len(names)):
            raise ConfigError(f"arch: logits of '{head}' are {tuple(logits[head].shape)}, expected [N, {len(names)}]")
