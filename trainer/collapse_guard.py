"""Does the pseudo-labeling go wrong? Asked after each epoch; the answer is a line for people, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

EPOCHS = 3
"""How many epochs back the guard looks."""
PATIENCE = 2
"""After how many epochs in a row with a warning `on_collapse` acts."""

_TAKEN_OVER, _NOT_COMMON = 0.95, 0.85
_FAR = 0.2  # of log C, in nats of KL divergence
_RARELY, _WORTH_SAYING = 0.1, 0.02
_NEVER, _ALWAYS = 1e-3, 1 - 1e-3
_ENOUGH = 0.01
_CLEARLY = 1.1
_ALL, _NONE = 0.99, 0.01


@dataclass(frozen=True)
class Expected:
    """The class distribution that the accepted pseudo-labels of a head should have.

    shares: {class: share}. aligned: alignment is on; by_labels: the shares are those of the labels.
    """

    shares: Mapping[str, float]
    aligned: bool = False
    by_labels: bool = True


@dataclass(frozen=True)
class Sign:
    """A sign of collapse: one line with what to change. head: where the shares of its classes are wrong."""

    text: str
    head: str | None = None


def find_collapse(history: Sequence[Mapping[str, float]], epochs: int, heads: Mapping[str, Expected]) -> list[Sign]:
    """Every sign of collapse.

    history: the values of the newest epochs with pseudo-labels (`train/loss_labeled`, `train/loss_unlabeled`,
    `train/HEAD/pass_rate`, `train/HEAD/pseudo/CLASS`, `valid/HEAD/recall/CLASS`), oldest first; of them the last EPOCHS
    count. epochs: how many such epochs there have been.
    """
    history = history[-EPOCHS:]
    found = []
    for head, expected in heads.items():
        text = _pass_rate(history, epochs, head)
        found += [Sign(f"{head}: {text}")] if text else []
        for rule in (_skew, _lost, _one_prediction):
            text = rule(history, head, expected)
            found += [Sign(f"{head}: {text}", head)] if text else []
    return [*found, *(Sign(text) for text in _losses(history, list(heads)))]


def _pass_rate(history: Sequence[Mapping[str, float]], epochs: int, head: str) -> str | None:
    rates = [values[f"train/{head}/pass_rate"] for values in history[-2:]]
    if len(rates) == 2 and max(rates) < _NEVER:
        return (
            "no pseudo-label has been accepted for 2 epochs, so nothing is learned from the unlabeled images: lower "
            "the value of trainer.args.threshold or raise trainer.args.warm_up_epochs"
        )
    if len(rates) == epochs == 2 and min(rates) > _ALWAYS:
        return (
            "every pseudo-label has been accepted from the start, so wrong ones are learned too: raise the value of "
            "trainer.args.threshold"
        )
    return None


def _skew(history: Sequence[Mapping[str, float]], head: str, expected: Expected) -> str | None:
    """One class has taken over, or the shares have been far from the expected ones for 2 epochs."""
    shares = _shares(history[-1], head, expected)
    if shares is None or history[-1][f"train/{head}/pass_rate"] < _ENOUGH:
        return None
    name = max(shares, key=lambda c: shares[c] * math.log(max(shares[c], 1e-12) / max(expected.shares[c], 1e-12)))
    far = [_divergence(values, head, expected) > _FAR * math.log(len(shares)) for values in history[-2:]]
    if not (shares[name] > _TAKEN_OVER and expected.shares[name] < _NOT_COMMON) and not (len(far) == 2 and all(far)):
        return None
    if expected.aligned:
        advice = "lower trainer.args.lambda_u or raise trainer.args.warm_up_epochs"
    else:
        advice = "set trainer.args.align to prior or lower trainer.args.lambda_u"
    return f"{_percent(shares[name])} of the accepted pseudo-labels are '{name}' while {_of(expected, name)}: {advice}"


def _lost(history: Sequence[Mapping[str, float]], head: str, expected: Expected) -> str | None:
    """A class has hardly been accepted for EPOCHS epochs."""
    found = [_shares(values, head, expected) for values in history]
    shares = [share for share in found if share is not None]
    if len(shares) < EPOCHS:
        return None
    for name, usual in expected.shares.items():
        if usual >= _WORTH_SAYING and all(share[name] < _RARELY * usual for share in shares):
            return (
                f"for {EPOCHS} epochs hardly any accepted pseudo-label has been '{name}' "
                f"({_percent(shares[-1][name])} of them while {_of(expected, name)}): set trainer.args.threshold to "
                "freematch or lower its value, or set loss.type to logit_adjustment"
            )
    return None


def _one_prediction(history: Sequence[Mapping[str, float]], head: str, expected: Expected) -> str | None:
    """All validation images are predicted as one class: for 2 epochs, or where the pseudo-labels are of it as well."""
    name = _predicted(history[-1], head, expected)
    if name is None or expected.shares[name] > 1 - _WORTH_SAYING:
        return None
    shares = _shares(history[-1], head, expected)
    agree = shares is not None and shares[name] > _TAKEN_OVER and history[-1][f"train/{head}/pass_rate"] >= _ENOUGH
    if not agree and [_predicted(values, head, expected) for values in history[-2:]] != [name] * 2:
        return None
    advice = "raise trainer.args.warm_up_epochs, lower trainer.args.lambda_u or set loss.type to logit_adjustment"
    if not expected.aligned:
        advice = "set trainer.args.align to prior, raise trainer.args.warm_up_epochs or lower trainer.args.lambda_u"
    return f"every validation image is predicted as '{name}' while {_of(expected, name)}: {advice}"


def _predicted(values: Mapping[str, float], head: str, expected: Expected) -> str | None:
    """The class that (nearly) all labeled validation images are predicted as, where there are images of several."""
    recalls = {name: values.get(f"valid/{head}/recall/{name}", math.nan) for name in expected.shares}
    found = [name for name, recall in recalls.items() if recall > _ALL]
    others = [recall for name, recall in recalls.items() if name not in found and not math.isnan(recall)]
    return found[0] if len(found) == 1 and others and max(others) < _NONE else None


def _losses(history: Sequence[Mapping[str, float]], heads: Sequence[str]) -> list[str]:
    """The unlabeled loss of an accepted pseudo-label rises while the labeled loss falls."""
    labeled, unlabeled = [], []
    for values in history:
        accepted = sum(values[f"train/{head}/pass_rate"] for head in heads) / max(1, len(heads))
        labeled.append(values["train/loss_labeled"])
        # Over all rows the loss rises with the pass rate, which is no fault.
        unlabeled.append(values["train/loss_unlabeled"] / max(accepted, _NEVER))
    if len(history) < EPOCHS or not (_rises(unlabeled) and _rises(labeled[::-1])):
        return []
    return [
        f"the unlabeled loss per accepted pseudo-label rises ({', '.join(f'{loss:.3f}' for loss in unlabeled)}) while "
        f"the labeled loss falls ({', '.join(f'{loss:.3f}' for loss in labeled)}), so the network contradicts its own "
        "pseudo-labels: lower trainer.args.lambda_u or the learning rate"
    ]


def _rises(losses: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(losses)) and losses[-1] > _CLEARLY * losses[0]


def _shares(values: Mapping[str, float], head: str, expected: Expected) -> dict[str, float] | None:
    shares = {name: values.get(f"train/{head}/pseudo/{name}", math.nan) for name in expected.shares}
    return None if any(math.isnan(share) for share in shares.values()) else shares


def _divergence(values: Mapping[str, float], head: str, expected: Expected) -> float:
    shares = _shares(values, head, expected) or {}
    return sum(s * math.log(max(s, 1e-12) / max(expected.shares[name], 1e-12)) for name, s in shares.items())


def _of(expected: Expected, name: str) -> str:
    whose = "of the labels are" if expected.by_labels else "is the target of trainer.args.align"
    return f"{_percent(expected.shares[name])} {whose}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


class CollapseGuard(nn.Module):
    """The history that `find_collapse` needs, in the checkpoint, so that a resumed run says and does the same.

    in_a_row: for how many epochs there has been a sign, since the last action. warm_up_until: the step at which the
    unlabeled loss comes back after `on_collapse: warm_up`, else 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.in_a_row = 0
        self.warm_up_until = 0
        self.history: list[dict[str, float]] = []

    def observe(self, values: Mapping[str, float], heads: Mapping[str, Expected]) -> list[Sign] | None:
        """Take in an epoch's values, once, and return what is wrong; None if the epoch had no pseudo-labels."""
        if not all(f"train/{head}/pass_rate" in values for head in heads):
            return None
        self.epochs += 1
        kept = {k: v for k, v in values.items() if k.startswith("train/") or "/recall/" in k}
        self.history = [*self.history[1 - EPOCHS :], kept]
        found = find_collapse(self.history, self.epochs, heads)
        self.in_a_row = self.in_a_row + 1 if found else 0
        return found

    @property
    def must_act(self) -> bool:
        return self.in_a_row >= PATIENCE

    def start_anew(self) -> None:
        """Something has been done about the signs: what was before it counts no more."""
        self.in_a_row, self.history = 0, []

    def get_extra_state(self) -> dict[str, Any]:
        names = ("epochs", "in_a_row", "warm_up_until", "history")
        return {name: getattr(self, name) for name in names}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
