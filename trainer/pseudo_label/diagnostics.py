"""What pseudo-labels are like: sums over an epoch's rows, the values of the log made of them, a line for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.pseudo_label.weak_batch import one_hot
from utils.sums import exact


def sums_of(
    thresholds: Tensor, target: Tensor, weight: Tensor, confidence: Tensor, hidden: Tensor | None = None
) -> dict[str, Tensor]:
    """Sums over the U rows of T steps, the same however steps are put together; nothing is read back from the device.

    thresholds [T, C]; target int64 [U], weight and confidence [U] in [0, 1] of the pseudo-labels; hidden int64 [U]:
    labels kept aside, −1 where there is none. `confusion` [C, C] has the weights by hidden label (rows) and
    pseudo-label (columns), `hidden` [C] the rows by hidden label.
    """
    classes = thresholds.shape[1]
    weight = exact(weight)
    of_class = one_hot(target, classes).to(weight.dtype)
    weighted = of_class * weight[:, None]
    sums = {
        "rows": torch.ones_like(weight).sum(),
        "weight": weighted.sum(dim=0),
        "predicted": of_class.sum(dim=0),
        "confidence": exact(confidence).sum(),
        "threshold": exact(thresholds).sum(dim=0),
        "batches": torch.ones_like(thresholds[:, 0]).sum(),
    }
    if hidden is not None:
        true = one_hot(hidden, classes).to(weight.dtype)
        sums |= {"confusion": true.T @ weighted, "hidden": true.sum(dim=0)}
    return sums


def values_of(
    sums: Mapping[str, Tensor], classes: Sequence[str], prior: Tensor, expected: Mapping[str, float]
) -> dict[str, float]:
    """An epoch's values from its sums; what is undefined (no pseudo-label accepted) is left out.

    prior [C]: class distribution of the labels, expected: the one that the accepted pseudo-labels should have.
    """
    rows, accepted = float(sums["rows"]), float(sums["weight"].sum())
    values = {
        "pass_rate": accepted / rows,
        "accepted": accepted,
        "confidence": float(sums["confidence"]) / rows,
        **{f"predicted/{c}": float(s) / rows for c, s in zip(classes, sums["predicted"])},
        **{f"threshold/{c}": float(s / sums["batches"]) for c, s in zip(classes, sums["threshold"])},
        **_ratios("pass_rate", classes, sums["weight"], sums["predicted"]),
        **{f"expected/{c}": share for c, share in expected.items()},
    }
    if accepted > 0:
        share = sums["weight"].double() / accepted
        usual = prior.double().cpu().clamp(min=1e-12)
        values.update({f"pseudo/{c}": float(s) for c, s in zip(classes, share)})
        values["pseudo_kl"] = float((share * (share.clamp(min=1e-12) / usual).log()).sum())
    return {**values, **_against_hidden(sums, classes)}


def _against_hidden(sums: Mapping[str, Tensor], classes: Sequence[str]) -> dict[str, float]:
    confusion = sums.get("confusion")
    if confusion is None:
        return {}
    right, known = confusion.diagonal(), confusion.sum()
    accuracy = {"pseudo_accuracy": float(right.sum() / known)} if float(known) > 0 else {}
    precision = _ratios("pseudo_precision", classes, right, confusion.sum(dim=0))
    return {**accuracy, **precision, **_ratios("pseudo_recall", classes, right, sums["hidden"])}


def _ratios(name: str, classes: Sequence[str], part: Tensor, whole: Tensor) -> dict[str, float]:
    return {f"{name}/{c}": float(p / w) for c, p, w in zip(classes, part, whole) if w > 0}


def describe(head: str, values: Mapping[str, float], prior: Mapping[str, float]) -> str:
    """One line for people about an epoch's `values`; prior: class -> share of the labels."""
    text = f"{head}: {values['pass_rate']:.0%} of the pseudo-labels accepted"
    if "pseudo_kl" in values:
        shares = ", ".join(f"{c} {values[f'pseudo/{c}']:.1%}" for c in prior)
        labels = ", ".join(f"{c} {share:.1%}" for c, share in prior.items())
        text += f": {shares} (labels: {labels}; KL {values['pseudo_kl']:.3f})"
    text += f"; mean confidence {values['confidence']:.3f}"
    if "pseudo_accuracy" in values:
        text += f"; accuracy against hidden labels {values['pseudo_accuracy']:.3f}"
    return text
