"""Which rows may come up unlabeled, and which of them a head learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader.label_frame import LabelFrame


def unlabeled_rows(data: Any) -> Tensor:
    """int64 [N], ascending: with one_per_group every training row, since a pass may show any member of a group."""
    data = _with_streams(data)
    stream, _ = getattr(data, "streams", {}).get("unlabeled", (None, 0))
    if stream is None:
        return torch.empty(0, dtype=torch.int64)
    rows = stream.rows if getattr(stream, "one_of", None) is None else data.labels.rows("train")
    return torch.as_tensor(rows, dtype=torch.int64).sort().values


def places_in(rows: Tensor, of_batch: Tensor) -> Tensor:
    """int64 [U]: places of a batch's rows among `rows`, which are ascending."""
    return torch.searchsorted(rows, of_batch)


def own_places(data: Any, rows: Tensor) -> dict[str, Tensor]:
    """{head: int64 [N]}: places of `rows` among those of the head's own data sets, −1 for the others; only heads for
    which there are others.

    Own are the data sets that have a label for the head, and those that have none for any.
    """
    labels = getattr(_with_streams(data), "labels", None)
    if labels is None:
        return {}
    frame: LabelFrame = labels.frame
    own = {head: np.ones(len(frame), dtype=bool) for head in frame.attributes}
    for part in frame.parts():
        known = [head for head in frame.attributes if frame.knows([head], part)]
        for head in frame.attributes:
            own[head][part] = not known or head in known
    kept = {head: torch.from_numpy(mask)[rows] for head, mask in own.items()}
    return {head: torch.where(mask, mask.cumsum(0) - 1, -1) for head, mask in kept.items() if not mask.all()}


def foreign_rows(places: Mapping[str, Tensor], left_out: bool) -> list[str]:
    """Notes about unlabeled images of data sets that lack a head's label, which are `left_out` or not, and about having
    asked for that in vain. places: of `own_places`."""
    if left_out and not places:
        return ['trainer.args.unlabeled_from "own" changes nothing: no unlabeled image is foreign to a head']
    too = 'the head learns from them too; trainer.args.unlabeled_from "own" leaves them out'
    said = "the head does not learn from them" if left_out else too
    return [
        f"{int((of_head < 0).sum()):,} of {len(of_head):,} unlabeled images are of data sets without '{head}': {said}"
        for head, of_head in places.items()
    ]


def _with_streams(data: Any) -> Any:
    """Features of a frozen backbone hold the FaceData that they were made from."""
    return getattr(data, "data", data)
