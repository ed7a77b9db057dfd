"""The image cache of a config, filled before a training or cleared."""

from __future__ import annotations

from pathlib import Path

from data_loader.pixel_store import clear
from data_loader.prepare_labels import prepare_labels
from trainer.build import open_run_images
from trainer.components import check_components
from utils.config import Config, apply_overrides


def fill_cache(config: Config) -> str:
    """Decode the images that are not there yet, as the config's training would; returns what is there then.

    Raises UserError for mistakes in config, labels and image files, and where the disk is full.
    """
    check_components(config)
    labels, told = prepare_labels(config), list[str]()

    def tell(line: str) -> None:
        told.append(line)
        print(line, flush=True)

    open_run_images(apply_overrides(config, ["data_loader.cache=disk"]), labels, tell)
    height, width = config.views.shape
    count = len(labels.frame)
    room = count * height * width * 3 / 2**20
    state = "are in the cache" if told else "were there already"
    return f"{_folder(config)}: {count:,} images at {height}x{width} {state} ({room:,.0f} MiB)"


def clear_cache(config: Config) -> list[str]:
    """Remove the decoded images in the config's `trainer.save_dir` that no process uses."""
    freed, left = clear(_folder(config))
    return [
        f"{_folder(config)}: {freed / 2**20:,.0f} MiB freed",
        *(f"{path}: in use by another process, left alone" for path in left),
    ]


def _folder(config: Config) -> Path:
    return Path(config.trainer.save_dir) / ".cache"
