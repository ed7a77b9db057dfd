"""Several checkpoints, one answer: soft or hard voting over their predictions of the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from report.evaluation import HeadPrediction
from utils.errors import UserError, did_you_mean

VOTES = ("soft", "hard")
TIE_BREAK = 1e-6


def combine(checkpoints: Sequence[Sequence[HeadPrediction]], vote: str = "soft") -> list[HeadPrediction]:
    """The heads of several checkpoints, each scored on the same rows in the same order, as one list of heads.

    soft: mean of the probabilities. hard: share of the checkpoints that choose a class; where classes tie, the mean
    probability decides. One checkpoint is returned as it is. Raises UserError if the checkpoints differ in heads,
    classes or labels.
    """
    if vote not in VOTES:
        raise UserError(f"--vote {vote}: no such vote{did_you_mean(vote, VOTES)}")
    if not checkpoints:
        raise ValueError("there is no checkpoint to combine")
    if len(checkpoints) == 1:
        return list(checkpoints[0])
    by_name = [{head.name: head for head in heads} for heads in checkpoints]
    for number, heads in enumerate(by_name[1:], start=2):
        if heads.keys() != by_name[0].keys():
            first, other = (", ".join(sorted(names)) for names in (by_name[0], heads))
            raise UserError(f"checkpoints differ in heads: checkpoint 1 has {first}; checkpoint {number} has {other}")
    return [_combine_head([heads[name] for heads in by_name], vote) for name in by_name[0]]


def _combine_head(heads: list[HeadPrediction], vote: str) -> HeadPrediction:
    first = heads[0]
    for number, other in enumerate(heads[1:], start=2):
        if other.classes != first.classes:
            raise UserError(
                f"head '{first.name}': checkpoints differ in classes: checkpoint 1 has {list(first.classes)};"
                f" checkpoint {number} has {list(other.classes)}"
            )
        if len(other.labels) != len(first.labels):
            raise ValueError(
                f"head '{first.name}': {len(first.labels)} and {len(other.labels)} rows cannot be combined"
            )
        if (other.labels != first.labels).any():
            changed = int((other.labels != first.labels).sum())
            raise UserError(f"head '{first.name}': checkpoints 1 and {number} label {changed:,} images differently")
    mean = np.mean([head.probs for head in heads], axis=0)
    probs = mean if vote == "soft" else _vote_share(heads, mean)
    return HeadPrediction(first.name, first.classes, first.labels, probs)


def _vote_share(heads: list[HeadPrediction], mean: np.ndarray) -> np.ndarray:
    """Vote shares [N, C]; tied rows lean to the class of higher mean probability by a millionth."""
    votes = sum(np.eye(len(head.classes))[head.predictions] for head in heads)
    share = votes / np.float64(len(heads))
    tied = (share == share.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True) > 1
    return np.where(tied, (share + TIE_BREAK * mean) / (1 + TIE_BREAK), share)
