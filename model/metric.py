"""Metrics: functions of a confusion matrix, chosen by name in a config (`metrics`).

The matrix ([C, C]; rows true, columns predicted) is summed over the whole set on the device, so that no figure is an
average of batch averages. A further metric is a further function here, named in `__all__`.
Without a labeled row every metric is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["accuracy", "balanced_accuracy", "macro_f1", "min_recall"]


def accuracy(confusion: Tensor) -> float:
    """Share of the rows predicted right."""
    confusion = confusion.double()
    return (confusion.diagonal().sum() / confusion.sum()).item()


def macro_f1(confusion: Tensor) -> float:
    """Mean F1 over the classes that occur among the labels or the predictions."""
    confusion = confusion.double()
    occurrences = confusion.sum(dim=0) + confusion.sum(dim=1)
    occurring = occurrences > 0
    return (2 * confusion.diagonal()[occurring] / occurrences[occurring]).mean().item()


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean recall over the classes that occur among the labels."""
    return _recalls(confusion).mean().item()


def min_recall(confusion: Tensor) -> float:
    """Recall of the class that is found worst, among those that occur among the labels."""
    recalls = _recalls(confusion)
    return recalls.min().item() if len(recalls) else torch.nan


def _recalls(confusion: Tensor) -> Tensor:
    """[classes with a labeled row], float64."""
    confusion = confusion.double()
    rows = confusion.sum(dim=1)
    return confusion.diagonal()[rows > 0] / rows[rows > 0]
