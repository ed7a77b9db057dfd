"""Does the pseudo-labeling go wrong? Asked after each epoch; the answer is a sentence for people, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

EPOCHS = 3
"""How many epochs back the guard looks."""

_TAKEN_OVER, _NOT_COMMON = 0.95, 0.85
_FAR = 0.2  # of log C, in nats of KL divergence
_RARELY, _WORTH_SAYING = 0.1, 0.02
_NEVER, _ALWAYS = 1e-3, 1 - 1e-3
_ENOUGH = 0.01
_CLEARLY = 1.1


@dataclass(frozen=True)
class Expected:
    """The class distribution that the accepted pseudo-labels of a head should have.

    shares: {class: share}. aligned: alignment is on; by_labels: the shares are those of the labels.
    """

    shares: Mapping[str, float]
    aligned: bool = False
    by_labels: bool = True


def find_collapse(history: Sequence[Mapping[str, float]], epochs: int, heads: Mapping[str, Expected]) -> list[str]:
    """One sentence for each sign of collapse, with what to change.

    history: the values of the newest epochs with pseudo-labels (`train/loss_labeled`, `train/loss_unlabeled`,
    `train/HEAD/pass_rate`, `train/HEAD/pseudo/CLASS`), oldest first; of them the last EPOCHS count. epochs: how many
    such epochs there have been.
    """
    history = history[-EPOCHS:]
    found = []
    for head, expected in heads.items():
        signs = (_pass_rate(history, epochs, head), _skew(history, head, expected), _lost(history, head, expected))
        found += [f"{head}: {sign}" for sign in signs if sign]
    return [*found, *_losses(history, list(heads))]


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
    """The history that `find_collapse` needs, in the checkpoint, so that a resumed run says the same.

    found: what was to be said about the last epoch; in_a_row: for how many epochs up to it there has been something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.in_a_row = 0
        self.found: list[str] = []
        self.history: list[dict[str, float]] = []

    def observe(self, values: Mapping[str, float], heads: Mapping[str, Expected]) -> list[str]:
        """Take in an epoch's values, once, and return what is to be said."""
        if not all(f"train/{head}/pass_rate" in values for head in heads):
            return self.found
        self.epochs += 1
        self.history = [*self.history[1 - EPOCHS :], {k: v for k, v in values.items() if k.startswith("train/")}]
        self.found = find_collapse(self.history, self.epochs, heads)
        self.in_a_row = self.in_a_row + 1 if self.found else 0
        return self.found

    def get_extra_state(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "in_a_row": self.in_a_row, "history": self.history}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.epochs, self.in_a_row, self.history = state["epochs"], state["in_a_row"], state["history"]
