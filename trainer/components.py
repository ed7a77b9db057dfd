"""Every kind of thing that a config chooses by `type`, and the check of a whole config against them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler

from base.base_trainer import BaseTrainer
from data_loader import views
from data_loader.prepare_labels import DATASETS
from data_loader.views import PRESETS, TRANSFORMS, random_steps, view_problems
from model import classifier, loss, metric
from trainer import fixmatch, lr_scheduler, mean_teacher, multi_head, pseudo_label_trainer, simclr, supervised
from trainer.mix import MIXES
from trainer.pseudo_label.kinds import PSEUDO_LABEL_KINDS
from utils.config import Config
from utils.config.catalogue import schema_text
from utils.config.components import Kind, config_problems
from utils.errors import ConfigError
from utils.files import atomic_write

KINDS: dict[str, Kind] = {
    "dataset": DATASETS,
    "arch": Kind("arch", (classifier,), base=torch.nn.Module, provided=frozenset({"heads", "load_weights"})),
    "loss": Kind("loss", (loss,), provided=frozenset({"progress"}), keyword_only=True),
    "metric": Kind("metric", (metric,), keyword_only=True),
    "optimizer": Kind("optimizer", (torch.optim,), base=torch.optim.Optimizer, provided=frozenset({"params"})),
    "lr_scheduler": Kind(
        "lr_scheduler",
        (lr_scheduler, torch.optim.lr_scheduler),
        base=LRScheduler,
        provided=frozenset({"optimizer"}),
    ),
    "trainer": Kind(
        "trainer",
        (supervised, fixmatch, multi_head, pseudo_label_trainer, mean_teacher, simclr),
        base=BaseTrainer,
        keyword_only=True,
    ),
    "mix": MIXES,
    "preset": Kind("preset", (views,), only=frozenset(PRESETS), provided=frozenset({"height", "width"})),
    "transform": TRANSFORMS,
    **PSEUDO_LABEL_KINDS,
}

SCHEMA = Path(__file__).resolve().parents[1] / "configs" / "schema.json"


def check_components(config: Config) -> None:
    """Raises ConfigError with everything that is wrong with the config's types and arguments."""
    problems = config_problems(config, KINDS)
    if problems:
        raise ConfigError(problems)
    check_views(config)


def check_views(config: Config) -> None:
    """Raises ConfigError for views that name existing transforms and do not work."""
    size, specs, problems = config.views.shape, config.to_dict()["views"], list[str]()
    for name in ("preprocess", "train", "weak", "strong", "eval"):
        problems += view_problems(specs[name], size, config.where(f"views.{name}"))
    for column, of_values in (specs["train_of"] or {}).items():
        for value, spec in of_values.items():
            problems += view_problems(spec, size, config.where(f"views.train_of.{column}.{value}"))
    problems = problems or random_steps(specs["preprocess"], size, config.where("views.preprocess"))
    if problems:
        raise ConfigError(problems)


if __name__ == "__main__":
    atomic_write(SCHEMA, schema_text(KINDS))
