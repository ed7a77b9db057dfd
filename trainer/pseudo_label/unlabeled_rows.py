"""Which rows may come up unlabeled, and which of them a head learns from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from base.parts import Parts
from data_loader.label_frame import LabelFrame


def unlabeled_rows(data: Any) -> Tensor:
    """int64 [N], ascending: with one_per_group every training row, since a pass may show any member of a group."""
    data = _with_streams(data)
    stream, _ = getattr(data, "streams", {}).get("unlabeled", (None, 0))
    if stream is None:
        return torch.empty(0, dtype=torch.int64)
    rows = stream.rows if getattr(stream, "one_of", None) is None else data.labels.rows("train")
    return torch.as_tensor(rows, dtype=torch.int64).sort().values


def own_places(data: Any, rows: Tensor, head: str) -> Tensor | None:
    """int64 [N]: places of `rows` among those of the head's own data sets, −1 for the others; None where all are.

    Own are the data sets that have a label for the head, and those that have none for any.
    """
    labels = getattr(_with_streams(data), "labels", None)
    if labels is None:
        return None
    frame: LabelFrame = labels.frame
    own = np.ones(len(frame), dtype=bool)
    for part in frame.parts():
        known = [name for name in frame.attributes if frame.knows([name], part)]
        own[part] = not known or head in known
    kept = torch.from_numpy(own)[rows]
    return None if bool(kept.all()) else torch.where(kept, kept.cumsum(0) - 1, -1)


def foreign_rows(parts: Parts, rows: Tensor, left_out: bool) -> list[str]:
    """Notes about heads for which there are unlabeled images of data sets that lack their label, which are `left_out`
    or not, and about having asked for that in vain."""
    notes = []
    for head in parts.data.classes:
        places = own_places(parts.data, rows, head)
        if places is None:
            continue
        foreign = f"{int((places < 0).sum()):,} of {len(places):,} unlabeled images are of data sets without '{head}'"
        too = 'the head learns from them too; trainer.args.unlabeled_from "own" leaves them out'
        notes.append(f"{foreign}: {'the head does not learn from them' if left_out else too}")
    if left_out and not notes:
        notes.append('trainer.args.unlabeled_from "own" changes nothing: no unlabeled image is foreign to a head')
    return notes


def _with_streams(data: Any) -> Any:
    """Features of a frozen backbone hold the FaceData that they were made from."""
    return getattr(data, "data", data)
