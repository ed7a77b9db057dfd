"""Losses: functions of the logits of one head, chosen by name in a config (`loss.type`).

    name(logits, target, class_counts, *, options) -> Tensor [N]

logits: [N, C]; target: int64 [N], -1 where the row is not labeled; class_counts: float [C], labeled training rows per
class. Returns the loss of every row in float32, 0 where the row is not labeled; the trainer averages.
A further loss is a further function here, named in `__all__`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "focal", "logit_adjustment"]

_UNLABELED = -1
_EFFECTIVE_NUMBER_BETA = 0.999

ClassWeight = list[float] | Literal["inverse", "effective", "saw"] | None


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross entropy, [N].

    class_weight: a list [C], "inverse" (1 / count) or "effective" (Cui et al. 2019, beta 0.999), scaled so that the
    mean weight of the labeled rows is 1; or "saw" (Lai et al. 2022), effective numbers with beta (N - 1) / N for a mean
    count N, scaled to sum C as published.
    Raises ValueError if label_smoothing is outside [0, 1) or class_weight does not fit.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}")
    weight = _class_weight(class_weight, class_counts)
    return F.cross_entropy(
        logits.float(),
        target,
        weight=weight,
        ignore_index=_UNLABELED,
        reduction="none",
        label_smoothing=label_smoothing,
    )


def logit_adjustment(logits: Tensor, target: Tensor, class_counts: Tensor, *, tau: float = 1.0) -> Tensor:
    """Logit-adjusted cross entropy, [N] (Menon et al. 2021; at tau 1 balanced softmax, Ren et al. 2020).

    CE(z + tau log prior, y), the prior taken from class_counts. A class without a labeled row counts as one row.
    """
    counts = class_counts.float().clamp(min=1)
    adjusted = logits.float() + tau * torch.log(counts / counts.sum())
    return F.cross_entropy(adjusted, target, ignore_index=_UNLABELED, reduction="none")


def focal(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    *,
    gamma: float = 2.0,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Focal loss, [N]: (1 - p_y)^gamma times the cross entropy (Lin et al. 2017). class_weight as in cross_entropy.

    Raises ValueError if gamma is negative or class_weight does not fit.
    """
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, not {gamma}")
    log_probs = F.log_softmax(logits.float(), dim=1)
    log_p = log_probs.gather(1, target.clamp(min=0)[:, None])[:, 0]
    # At p = 1 a gamma below 1 has no finite gradient.
    distance = (-torch.expm1(log_p)).clamp(min=1e-7)
    weight = _class_weight(class_weight, class_counts)
    return distance**gamma * F.nll_loss(log_probs, target, weight, ignore_index=_UNLABELED, reduction="none")


def _class_weight(class_weight: ClassWeight, class_counts: Tensor) -> Tensor | None:
    """[C] float32, scaled so that the labeled rows have mean weight 1 ("saw": to sum C)."""
    if class_weight is None:
        return None
    counts = class_counts.float()
    present = counts.clamp(min=1)
    if class_weight == "inverse":
        weight = 1 / present
    elif class_weight == "effective":
        weight = 1 / -torch.expm1(present * math.log(_EFFECTIVE_NUMBER_BETA))
    elif class_weight == "saw":
        weight = 1 / -torch.expm1(present * torch.log1p(-1 / present.mean()))
        return weight * len(weight) / weight.sum()
    elif isinstance(class_weight, str):
        raise ValueError(f"class_weight must be 'inverse', 'effective', 'saw' or a list, not '{class_weight}'")
    else:
        if len(class_weight) != len(counts):
            raise ValueError(f"class_weight has {len(class_weight)} entries for {len(counts)} classes")
        if min(class_weight) < 0 or max(class_weight) == 0:
            raise ValueError(f"class_weight needs entries of at least 0, not all 0: {class_weight}")
        weight = torch.tensor(class_weight, dtype=torch.float32, device=counts.device)
    return weight * counts.sum() / (weight * counts).sum()
