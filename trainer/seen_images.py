"""Images that are held back, and that the weights a run starts from have learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data_loader.prepare_labels import Labels
from trainer.scored_rows import trained_on
from utils.checkpoint import load_checkpoint
from utils.config import Config
from utils.errors import UserError


def seen_by_weights(config: Config, labels: Labels) -> list[str]:
    """Of `arch.args.weights` that are a checkpoint of this project with classifiers: how many images of valid and test,
    or of their groups, it was trained on, as a line; else nothing."""
    given = config.arch.args.get("weights")
    path = given.get("path") if isinstance(given, Mapping) else given
    known = _training_of(Path(path).expanduser()) if isinstance(path, str) else None
    if known is None:
        return []
    counts = []
    for side in ("valid", "test"):
        rows = labels.frame.rows[(labels.split == side).to_numpy() & labels.frame.labeled.to_numpy()]
        seen = int(trained_on(known, pd.Series(rows["group"].to_numpy(), index=rows["path"])).sum())
        if seen:
            counts.append(f"{seen:,} of {len(rows):,} images of '{side}'")
    if not counts:
        return []
    return [f"{' and '.join(counts)} have the names of images (or groups) that {path} was trained on"]


def _training_of(path: Path) -> dict[str, Any] | None:
    """path, group and split of the images of a checkpoint that learned labels."""
    try:
        state = load_checkpoint(path)
    except UserError:  # of another program, or what reading the weights will say
        return None
    data = state.get("data") or {}
    return data if state.get("classes") and {"path", "group", "split"} <= data.keys() else None
