"""A config that is tried in few epochs: what would be a mistake in its file is no reason to refuse the trial."""

from __future__ import annotations

from utils.config import Config


def is_trial(config: Config, key: str) -> bool:
    """Whether the run is shorter than its config's because of `-s`, or continues one that was started.

    key: what does not fit the length; where `-s` gives that too, it is no trial.
    """
    if config.where("trainer").endswith(".pth: trainer"):
        return True
    return config.where("trainer.epochs").startswith("-s ") and not config.where(key).startswith("-s ")
