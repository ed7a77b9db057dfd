"""Whether the models of the folds are better together: each alone, their soft and hard vote, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from report.evaluation import HeadPrediction, difference_of_f1, evaluate_head, joint_head
from report.table import align, score
from report.vote import VOTES, combine

SCORES = ("accuracy", "macro_f1", "balanced_accuracy")
_TITLES = ("accuracy", "macro F1", "balanced accuracy")


def vote_summary(models: Sequence[Sequence[HeadPrediction]], groups: Sequence[Any]) -> dict[str, Any]:
    """Scores of several models of the same heads on the same rows, ready for JSON.

    {"images": N, "heads": {HEAD: {"images": labeled ones, "single": [scores of each], "mean", "soft", "hard",
    "soft_minus_best": 95 % interval of the macro F1, "says": a sentence}}}; several heads have a `joint` one as well.
    """
    of_models = [_with_joint(heads) for heads in models]
    of_votes = {vote: _with_joint(combine(models, vote)) for vote in VOTES}
    alone = [_scores(heads, groups) for heads in of_models]
    together = {vote: _scores(heads, groups) for vote, heads in of_votes.items()}
    heads: dict[str, Any] = {}
    for name in alone[0]:
        single = [of_model[name] for of_model in alone]
        mean = {key: float(np.mean([scores[key] for scores in single])) for key in SCORES}
        heads[name] = {"single": single, "mean": mean, **{vote: together[vote][name] for vote in VOTES}}
        best = int(np.argmax([scores["macro_f1"] for scores in single]))
        soft, of_best = of_votes["soft"][name], of_models[best][name]
        heads[name] |= {"images": int(soft.labeled.sum()), "soft_minus_best": difference_of_f1(soft, of_best, groups)}
        heads[name]["says"] = verdict(heads[name])
    return {"images": len(groups), "heads": heads}


def _with_joint(heads: Sequence[HeadPrediction]) -> dict[str, HeadPrediction]:
    joint = joint_head(heads)
    return {head.name: head for head in [*heads, *([joint] if joint else [])]}


def verdict(head: dict[str, Any]) -> str:
    """One sentence about one head of `vote_summary`: what voting is worth, by macro F1."""
    f1 = [scores["macro_f1"] for scores in head["single"]]
    best, mean, soft = max(f1), head["mean"]["macro_f1"], head["soft"]["macro_f1"]
    found = f"soft voting reaches a macro F1 of {soft:.3f}"
    one = f"the best single model, fold {f1.index(best) + 1}, {best:.3f}"
    if soft >= best:
        low, high = head.get("soft_minus_best") or (None, None)
        if low is not None and low > 0:
            return f"{found}; {one}: voting is better"
        span = "" if low is None else f", which may be chance (95 %: {low:+.3f} to {high:+.3f})"
        return f"{found}; {one}: voting is {'no worse' if soft > best else 'as good'}{span if soft > best else ''}"
    if soft >= mean:
        return (
            f"{found}, less than {one}, and no less than the mean of the single models, {mean:.3f}: which one is best "
            "is not known before the test"
        )
    return f"{found}, less than the mean of the single models, {mean:.3f}: do not vote"


def format_vote(summary: dict[str, Any] | None) -> str:
    """Text for the terminal from `vote_summary`; without a test split, how to get one."""
    if summary is None:
        return "the votes of the folds are not compared: there is no test split that none has seen (split.test)"
    return "\n\n".join(
        _head_block(name, head, head.get("images", summary["images"])) for name, head in summary["heads"].items()
    )


def _scores(heads: Mapping[str, HeadPrediction], groups: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Per head that has a labeled row."""
    found = {name: evaluate_head(head, groups, bootstrap=0) for name, head in heads.items() if head.labeled.any()}
    return {name: {key: result[key] for key in SCORES} for name, result in found.items()}


def _head_block(name: str, head: dict[str, Any], images: int) -> str:
    rows: list[tuple[str, ...]] = [("model", *_TITLES)]
    rows += [(f"fold {number}", *_cells(scores)) for number, scores in enumerate(head["single"], start=1)]
    rows += [("mean", *_cells(head["mean"])), *((f"{vote} vote", *_cells(head[vote])) for vote in VOTES)]
    title = f"{name}: {images:,} test images that no model has seen"
    return "\n".join([title, *align(rows), f"  {head['says']}"])


def _cells(scores: dict[str, float]) -> tuple[str, ...]:
    return tuple(score(scores[key]) for key in SCORES)
