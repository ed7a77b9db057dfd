"""Losses: functions of the logits of one head, chosen by name in a config (`loss.type`).

    name(logits, target, class_counts, *, options) -> Tensor [N]

logits: [N, C]; target: int64 [N], -1 where the row is not labeled; class_counts: float [C], labeled training rows per
class. A loss that changes in the course of the training has a fourth argument `progress`: float32 [], the share of the
steps that are done, or None at the start.
Returns the loss of every row in float32, 0 where the row is not labeled; the trainer averages.
A further loss is a further function here, named in `__all__`.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.class_weight import ClassWeight, class_weight_of
from utils.config.components import Nested

__all__ = [
    "arcface",
    "bce",
    "cross_entropy",
    "focal",
    "label_smoothing",
    "ldam",
    "logit_adjustment",
    "mixture",
    "ordinal",
    "soft_f1",
    "symmetric_cross_entropy",
]

_UNLABELED = -1
COSINE_SCALE = 30.0


def arcface(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    *,
    margin: float = 0.3,
    scale: float = COSINE_SCALE,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross entropy with an angular margin for the label, [N] (ArcFace, Deng et al. 2019): scale · cos(angle + margin).

    logits: scale · cos(angle to each class), as of a FaceClassifier with `cosine_scale`.
    margin: in radians; the paper's 0.5 is for thousands of identities. Beyond pi - margin, where the cosine would rise
        again, it goes on falling along a line. class_weight: as in cross_entropy.
    Raises ValueError if margin is outside [0, pi / 2), scale not positive, or class_weight does not fit.
    """
    if not 0 <= margin < math.pi / 2 or scale <= 0:
        raise ValueError(f"margin must be in [0, 1.57) and scale above 0, not {margin} and {scale}")
    label = target.clamp(min=0)[:, None]
    cosine = (logits.float().gather(1, label) / scale).clamp(-1, 1)
    # At an angle of 0 the sine has no finite gradient.
    sine = (1 - cosine.square()).clamp(min=1e-6).sqrt()
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    moved = torch.where(cosine > -math.cos(margin), moved, cosine + math.cos(margin) - 1)
    shifted = logits.float().scatter(1, label, scale * moved)
    weight = class_weight_of(class_weight, class_counts)
    return F.cross_entropy(shifted, target, weight, ignore_index=_UNLABELED, reduction="none")


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
    weight = class_weight_of(class_weight, class_counts)
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
    Raises ValueError if tau is negative.
    """
    if tau < 0:
        raise ValueError(f"tau must be at least 0, not {tau}")
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
    weight = class_weight_of(class_weight, class_counts)
    return distance**gamma * F.nll_loss(log_probs, target, weight, ignore_index=_UNLABELED, reduction="none")


def label_smoothing(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    *,
    smoothing: float = 0.1,
    class_weight: ClassWeight = None,
) -> Tensor:
    """Cross entropy against 1 - smoothing on the label plus smoothing / C on every class, [N] (Szegedy et al. 2016).

    smoothing: above 0 and below 1. class_weight: as in cross_entropy.
    Raises ValueError for other values of smoothing: at 0 this is cross_entropy, which has a name of its own.
    """
    if not 0 < smoothing < 1:
        hint = "; at 0 nothing is smoothed: choose cross_entropy" if smoothing == 0 else ""
        raise ValueError(f"smoothing must be above 0 and below 1, not {smoothing}{hint}")
    return cross_entropy(logits, target, class_counts, label_smoothing=smoothing, class_weight=class_weight)


def bce(logits: Tensor, target: Tensor, class_counts: Tensor, *, class_weight: ClassWeight = None) -> Tensor:
    """Binary cross entropy on the difference of the two logits, [N].

    class_weight: as in cross_entropy.
    Raises ValueError if there are not two classes.
    """
    if logits.shape[1] != 2:
        raise ValueError(f"two classes are needed, this head has {logits.shape[1]}; choose cross_entropy")
    difference = logits[:, 1].float() - logits[:, 0].float()
    rows = F.binary_cross_entropy_with_logits(difference, target.clamp(min=0).float(), reduction="none")
    weight = class_weight_of(class_weight, class_counts)
    rows = rows if weight is None else rows * weight[target.clamp(min=0)]
    return _of_labeled(rows, target)


def ldam(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    progress: Tensor | None = None,
    *,
    max_margin: float = 0.5,
    scale: float = 1.0,
    class_weight: ClassWeight = None,
    reweight_after: float | None = None,
) -> Tensor:
    """Cross entropy with a label-distribution-aware margin, [N] (LDAM, Cao et al. 2019): CE(scale (z - m_y), y).

    m_c is proportional to n_c^(-1/4) for n_c labeled rows of class c; a class without one counts as one row.
    max_margin: margin of the rarest class. scale: factor of the logits; the paper's 30 is for cosines, linear heads
        find their own scale, and with a FaceClassifier's `cosine_scale` s the paper's loss has scale 1 and max_margin
        0.5 s. class_weight: as in cross_entropy.
    reweight_after: share of the training after which class_weight is switched on (deferred re-weighting, §3.3 of the
        paper, which does so after 160 of 200 epochs).
    Raises ValueError if max_margin is negative, scale not positive, or reweight_after not inside (0, 1) or alone.
    """
    if max_margin < 0 or scale <= 0:
        raise ValueError(f"max_margin must be at least 0 and scale above 0, not {max_margin} and {scale}")
    if reweight_after is not None and (class_weight is None or not 0 < reweight_after < 1):
        raise ValueError(
            f"reweight_after must be above 0 and below 1, with a class_weight to switch on, such as effective; "
            f"not {reweight_after} with class_weight {class_weight}"
        )
    margin = class_counts.float().clamp(min=1) ** -0.25
    margin = max_margin * margin / margin.max()
    shifted = logits.float() - margin * F.one_hot(target.clamp(min=0), logits.shape[1])
    weight = class_weight_of(class_weight, class_counts)
    if weight is not None and reweight_after is not None:
        done = torch.zeros((), device=weight.device) if progress is None else progress
        weight = torch.where(done >= reweight_after, weight, 1.0)
    return F.cross_entropy(scale * shifted, target, weight, ignore_index=_UNLABELED, reduction="none")


def symmetric_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """alpha · CE(label, p) + beta · CE(p, label), [N], for labels of which some are wrong (Wang et al. 2019).

    alpha: factor of the cross entropy. beta: factor of the reverse one, which bounds what a wrong label can do.
    log_zero: what stands for log 0 in the reverse one.
    Raises ValueError if a factor is negative, both are 0, or log_zero is not negative.
    """
    if min(alpha, beta) < 0 or max(alpha, beta) == 0:
        raise ValueError(f"alpha and beta must be at least 0 and not both 0, not {alpha} and {beta}")
    if log_zero >= 0:
        raise ValueError(f"log_zero must be below 0, not {log_zero}")
    log_probs = F.log_softmax(logits.float(), dim=1)
    forward = F.nll_loss(log_probs, target, ignore_index=_UNLABELED, reduction="none")
    p = log_probs.gather(1, target.clamp(min=0)[:, None])[:, 0].exp()
    return alpha * forward + _of_labeled(-beta * log_zero * (1 - p), target)


def ordinal(logits: Tensor, target: Tensor, class_counts: Tensor) -> Tensor:
    """Squared earth mover's distance between prediction and label, [N] (Hou et al. 2016), for ordered classes.

    The sum over classes of the squared difference of the cumulative distributions: a mistake two classes away costs
    more than one next door. The paper adds it to the cross entropy; `mixture` does that.
    """
    cumulated = logits.float().softmax(dim=1).cumsum(dim=1)
    reached = torch.arange(logits.shape[1], device=target.device) >= target[:, None]
    return _of_labeled((cumulated - reached.float()).square().sum(dim=1), target)


def soft_f1(logits: Tensor, target: Tensor, class_counts: Tensor) -> Tensor:
    """1 - macro F1 of the labeled rows, counted with probabilities instead of decisions so that it has a gradient, [N].

    One value for the whole batch, given to every labeled row, so that their mean is that value. Macro over the classes
    that occur among the labels: it says little in batches smaller than a few rows a class.
    """
    probs = _of_labeled(logits.float().softmax(dim=1), target[:, None])
    true = (target[:, None] == torch.arange(logits.shape[1], device=target.device)).float()
    support = true.sum(dim=0)
    f1 = 2 * (probs * true).sum(dim=0) / (probs.sum(dim=0) + support).clamp(min=1e-7)
    value = 1 - f1.sum() / (support > 0).sum().clamp(min=1)
    return _of_labeled(value.expand(len(target)), target)


def mixture(
    logits: Tensor,
    target: Tensor,
    class_counts: Tensor,
    progress: Tensor | None = None,
    *,
    parts: Annotated[list[dict[str, Any] | str], Nested("loss")],
    weights: list[float] | None = None,
) -> Tensor:
    """A weighted sum of other losses, [N].

    parts: the losses, each a name or {"type", "args"}. weights: a factor of each; null: 1 / number of parts.
    Raises ValueError if the weights do not fit, or a part refuses its options.
    """
    if not parts:
        raise ValueError("parts is empty; name at least one loss")
    factors = [1 / len(parts)] * len(parts) if weights is None else weights
    if len(factors) != len(parts):
        raise ValueError(f"weights has {len(factors)} entries for {len(parts)} parts; give one for each")
    if min(factors) < 0 or max(factors) == 0:
        raise ValueError(f"weights needs entries of at least 0, not all 0: {weights}")
    total = torch.zeros(len(target), device=logits.device)
    for part, factor in zip(parts, factors):
        name, options = (part, {}) if isinstance(part, str) else (part["type"], part.get("args", {}))
        given = (logits, target, class_counts, progress) if _takes_progress(name) else (logits, target, class_counts)
        total = total + factor * globals()[name](*given, **options)
    return total


@functools.cache
def _takes_progress(name: str) -> bool:
    return "progress" in inspect.signature(globals()[name]).parameters


def _of_labeled(rows: Tensor, target: Tensor) -> Tensor:
    """`rows`, 0 where the row is not labeled; the shapes broadcast."""
    return torch.where(target == _UNLABELED, 0.0, rows)
