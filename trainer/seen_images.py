"""Images that are held back, and that the weights a run starts from have learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from data_loader.prepare_labels import Labels
from data_loader.split_file import named_as
from trainer.scored_rows import trained_on
from utils.checkpoint import load_checkpoint
from utils.config import Config
from utils.errors import UserError


def seen_by_weights(config: Config, labels: Labels) -> dict[str, Any]:
    """What `arch.args.weights` have learned, if they are a checkpoint of this project that labels have taught.

    `paths` and `groups` of the images, also those of weights that it started from itself; `said`: how many images of
    valid and test they are, or are of their groups, a line or none. Weights that know no image of the data have no say.
    """
    nothing: dict[str, Any] = {"paths": [], "groups": [], "said": []}
    given = config.arch.args.get("weights")
    path = given.get("path") if isinstance(given, Mapping) else given
    known = _training_of(Path(path).expanduser()) if isinstance(path, str) else None
    if known is None:
        return nothing
    known = named_as(known, labels.frame)
    if not known.index.isin(labels.frame.rows["path"]).any():
        return nothing
    counts = []
    data = {"path": list(known.index), "group": list(known["group"]), "split": list(known["split"])}
    for side in ("valid", "test"):
        rows = labels.frame.rows[(labels.split == side).to_numpy() & labels.frame.labeled.to_numpy()]
        seen = int(trained_on(data, pd.Series(rows["group"].to_numpy(), index=rows["path"])).sum())
        if seen:
            counts.append(f"{seen:,} of {len(rows):,} images of '{side}'")
    told = [f"{' and '.join(counts)} have the names of images (or groups) that {path} was trained on"] if counts else []
    learned = known[known["split"] == "train"]
    return {"paths": list(learned.index), "groups": list(learned["group"]), "said": told}


def _training_of(path: Path) -> pd.DataFrame | None:
    """group and split (`train` for what it has learned) by path."""
    try:
        state = load_checkpoint(path)
    except UserError:  # of another program, or what reading the weights will say
        return None
    data, arch = state.get("data") or {}, json.loads(state["config"]).get("arch", {})
    if not {"path", "group", "split"} <= data.keys() or (arch.get("args") or {}).get("head") == "simclr":
        return None
    table = pd.DataFrame({"group": data["group"], "split": data["split"]}, index=data["path"])
    before = data.get("weights_saw") or {"paths": [], "groups": []}
    earlier = pd.DataFrame({"group": before["groups"], "split": "train"}, index=before["paths"])
    return pd.concat([earlier, table[~table.index.isin(earlier.index)]])
