"""Several checkpoints, one answer: heads that they share are voted on, heads that differ complement each other."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from report.evaluation import HeadPrediction, compose_heads
from utils.errors import UserError, did_you_mean
from utils.joint import JOINT

VOTES = ("soft", "hard")
TIE_BREAK = 1e-6
# The joint label counts mask * 6 + gender * 3 + age, in whatever order the three models are named.
JOINT_ORDER = ("mask", "gender", "age")


def check_vote(checkpoints: int, vote: str, weights: Sequence[float] | None = None) -> None:
    """Raises UserError for a vote that there is not, and for weights that are not one number > 0 per checkpoint."""
    if vote not in VOTES:
        raise UserError(f"--vote {vote}: no such vote{did_you_mean(vote, VOTES)}")
    if weights is None:
        return
    given = f"--weights {' '.join(f'{weight:g}' for weight in weights)}"
    if len(weights) != checkpoints:
        raise UserError(
            f"{given}: {len(weights)} for {checkpoints} checkpoint{'s' * (checkpoints > 1)}; give one number for each, "
            "in the order of --resume"
        )
    if not all(isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"{given}: expected numbers greater than 0")


def combine(
    checkpoints: Sequence[Sequence[HeadPrediction]], vote: str = "soft", weights: Sequence[float] | None = None
) -> list[HeadPrediction]:
    """The heads of several checkpoints, each scored on the same rows in the same order, as one list of heads.

    A head of several checkpoints is voted on. soft: mean of the probabilities. hard: share of the checkpoints that
    choose a class; where classes tie, the mean probability decides. `weights` (one per checkpoint) make both weighted.
    A head of one checkpoint is returned as it is. Where no checkpoint has all heads, mask, gender and age come first.
    Beside a joint head, a checkpoint that has all of its parts answers by their product.
    Raises UserError if the checkpoints of a head differ in classes or labels, if only some have a joint head and others
    not all of its parts, and for weights of which none counts.
    """
    if not checkpoints:
        raise ValueError("there is no checkpoint to combine")
    check_vote(len(checkpoints), vote, weights)
    checkpoints = _joined(checkpoints)
    voters: dict[str, list[tuple[int, HeadPrediction]]] = {}
    for number, heads in enumerate(checkpoints):
        for head in heads:
            voters.setdefault(head.name, []).append((number, head))
    if len(checkpoints) > len(voters.get(JOINT, checkpoints)):
        raise UserError(
            f"checkpoints with the head '{JOINT}' and checkpoints with {', '.join(n for n in voters if n != JOINT)} "
            "cannot be combined: beside a joint head a checkpoint must have all of its parts, with the same classes"
        )
    if weights is not None and all(len(several) == 1 for several in voters.values()):
        raise UserError("--weights: no head is in two of the checkpoints, so there is nothing to weigh")
    combined = [_combine_head(several, vote, weights) for several in voters.values()]
    if all(len(heads) < len(voters) for heads in checkpoints):
        rank = {name: place for place, name in enumerate(JOINT_ORDER)}
        combined.sort(key=lambda head: rank.get(head.name, len(rank)))
    return combined


def _joined(checkpoints: Sequence[Sequence[HeadPrediction]]) -> list[Sequence[HeadPrediction]]:
    """Where one has a joint head, the others' parts of it as one such head."""
    joint = next((head for heads in checkpoints for head in heads if head.name == JOINT), None)
    if joint is None:
        return list(checkpoints)
    rank = {name: place for place, name in enumerate(JOINT_ORDER)}
    found: list[Sequence[HeadPrediction]] = []
    for heads in checkpoints:
        composed = compose_heads(sorted(heads, key=lambda head: rank.get(head.name, len(rank))))
        found.append([composed] if composed is not None and composed.classes == joint.classes else heads)
    return found


def _combine_head(
    voters: list[tuple[int, HeadPrediction]], vote: str, weights: Sequence[float] | None
) -> HeadPrediction:
    """voters: (number of the checkpoint, its head)."""
    (origin, first), *others = voters
    for number, other in others:
        if other.classes != first.classes:
            raise UserError(
                f"head '{first.name}': checkpoints differ in classes: "
                f"checkpoint {origin + 1} has {list(first.classes)}; "
                f"checkpoint {number + 1} has {list(other.classes)}"
            )
        if len(other.labels) != len(first.labels):
            raise ValueError(
                f"head '{first.name}': {len(first.labels)} and {len(other.labels)} rows cannot be combined"
            )
        if (other.labels != first.labels).any():
            changed = int((other.labels != first.labels).sum())
            raise UserError(
                f"head '{first.name}': checkpoints {origin + 1} and {number + 1} label {changed:,} images differently"
            )
    if not others:
        return first
    say = np.array([1.0 if weights is None else weights[number] for number, _ in voters])
    mean = np.average([head.probs for _, head in voters], axis=0, weights=say)
    probs = mean if vote == "soft" else _vote_share([head for _, head in voters], say / say.sum(), mean)
    return HeadPrediction(first.name, first.classes, first.labels, probs)


def _vote_share(heads: list[HeadPrediction], say: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Vote shares [N, C]; tied rows lean to the class of higher mean probability by a millionth."""
    share = np.sum([part * np.eye(len(head.classes))[head.predictions] for head, part in zip(heads, say)], axis=0)
    tied = np.isclose(share, share.max(axis=1, keepdims=True), rtol=0, atol=1e-9).sum(axis=1, keepdims=True) > 1
    return np.where(tied, (share + TIE_BREAK * mean) / (1 + TIE_BREAK), share)
