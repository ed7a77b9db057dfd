"""Weights of classes in a loss: rare ones count more."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

_EFFECTIVE_NUMBER_BETA = 0.999

ClassWeight = list[float] | Literal["inverse", "effective", "saw"] | None


def class_weight_of(class_weight: ClassWeight, class_counts: Tensor) -> Tensor | None:
    """[C] float32, scaled so that the labeled rows have mean weight 1 ("saw": to sum C).

    Raises ValueError if it does not fit.
    """
    if class_weight is None:
        return None
    counts = class_counts.float()
    present = counts.clamp(min=1)
    if class_weight == "inverse":
        weight = 1 / present
    elif class_weight == "effective":
        weight = 1 / -torch.expm1(present * math.log(_EFFECTIVE_NUMBER_BETA))
    elif class_weight == "saw":
        return smoothed_adaptive_weights(counts)
    elif isinstance(class_weight, str):
        raise ValueError(f"class_weight must be 'inverse', 'effective', 'saw' or a list, not '{class_weight}'")
    else:
        if len(class_weight) != len(counts):
            raise ValueError(f"class_weight has {len(class_weight)} entries for {len(counts)} classes")
        if min(class_weight) < 0 or max(class_weight) == 0:
            raise ValueError(f"class_weight needs entries of at least 0, not all 0: {class_weight}")
        weight = torch.tensor(class_weight, dtype=torch.float32, device=counts.device)
    return weight * counts.sum() / (weight * counts).sum()


def smoothed_adaptive_weights(class_counts: Tensor) -> Tensor:
    """SAW (Lai et al. 2022): 1 / effective number with beta (N - 1) / N for the mean count N, [C] with sum C.

    class_counts: float [C]; a class counts as one row at least.
    """
    present = class_counts.clamp(min=1)
    weight = 1 / -torch.expm1(present * torch.log1p(-1 / present.mean()))
    return weight * len(weight) / weight.sum()
