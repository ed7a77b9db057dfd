"""Warm-ups longer than the run: a mistake in a config, which is refused, or a trial of one, which is told."""

from __future__ import annotations

from utils.config import Config


def is_trial(config: Config, warm_up: str) -> bool:
    """Whether the run is shorter than its config's because of `-s`, or continues one that was started.

    warm_up: the key that is too long now; where `-s` gives that too, it is no trial.
    """
    if config.where("trainer").endswith(".pth: trainer"):
        return True
    shortened = any(_is_override(config, key) for key in ("trainer.epochs", "trainer.steps_per_epoch"))
    return shortened and not _is_override(config, warm_up)


def _is_override(config: Config, key: str) -> bool:
    return config.where(key).startswith("-s ")
