"""The signs that pseudo-labeling goes wrong, from the values of the last epochs: a line for people each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

EPOCHS = 3
"""How many epochs back the guard looks."""

_TAKEN_OVER, _NOT_COMMON = 0.95, 0.85
_FAR = 0.2  # of log C, in nats of KL divergence
_RARELY, _SELDOM, _WORTH_SAYING = 0.1, 0.33, 0.02
_NEVER, _ALWAYS = 1e-3, 1 - 1e-3
_ENOUGH = 0.01
_NO_CHANCE = 20  # rows that the others should have: they have under a tenth of them by chance once in 10^7 times
_FEW = 10  # accepted pseudo-labels for each class: of fewer, shares say little
_CLEARLY, _HARDLY = 1.1, 0.95
_LITTLE = 0.1  # of what the most common class for everybody gets wrong
_ALL, _NONE = 0.99, 0.01
_SLOWER = "lower trainer.args.lambda_u or raise trainer.args.warm_up_epochs"


@dataclass(frozen=True)
class InUse:
    """What a head has in use, so that no advice is to do what is done or cannot be done.

    threshold: its name; has_value: it has an argument of that name; starts_open: it accepts everything at first, by
    design. adjusted: the labels' distribution is taken out of the logits. may_align: debiasing goes with alignment.
    """

    threshold: str = "fixed"
    has_value: bool = True
    starts_open: bool = False
    adjusted: bool = False
    may_align: bool = True


@dataclass(frozen=True)
class Expected:
    """The class distribution that the accepted pseudo-labels of a head should have.

    shares: {class: share}. aligned: alignment holds them to these; by_labels: the shares are those of the labels.
    labels: those of the labels, where they should be looked at too, as nothing but the name of an aligner says others.
    """

    shares: Mapping[str, float]
    aligned: bool = False
    by_labels: bool = True
    labels: Mapping[str, float] | None = None
    in_use: InUse = InUse()

    @property
    def can_align(self) -> bool:
        return not self.aligned and self.in_use.may_align


@dataclass(frozen=True)
class Sign:
    """A sign of collapse: one line with what to change. head: where the shares of its classes are wrong.

    validation: it is about the validation images, so it stands until they are looked at again. remark: it is said once,
    and nothing is done about it.
    """

    text: str
    head: str | None = None
    validation: bool = False
    remark: bool = False


def find_collapse(
    history: Sequence[Mapping[str, float]],
    epochs: int,
    heads: Mapping[str, Expected],
    validations: Sequence[Mapping[str, float]] | None = None,
) -> list[Sign]:
    """Every sign of collapse.

    history: the values of the newest epochs with pseudo-labels (`train/loss_labeled`, `train/loss_unlabeled`,
    `train/HEAD/pass_rate`, `train/HEAD/accepted`, `train/HEAD/pseudo/CLASS`, `valid/HEAD/recall/CLASS` and, where
    labels were set aside, `train/HEAD/pseudo_accuracy`), oldest first; of them the last EPOCHS count. epochs: how
    many such epochs there have been. validations: the values of the newest epochs that were validated, where these
    are not all of the history's. A head without values in the newest epoch, as none of its rows came up, is not
    judged.
    """
    history = history[-EPOCHS:]
    validations = history if validations is None else validations
    found = []
    for head, expected in heads.items():
        if not has_values(history[-1], head):
            continue
        of_head = [values for values in history if has_values(values, head)]
        if text := _pass_rate(of_head, epochs, head, expected.in_use):
            found.append(Sign(f"{head}: {text}"))
        for rule in (_skew, _lost):
            if text := rule(of_head, head, expected):
                found.append(Sign(f"{head}: {text}", head))
        if text := _one_prediction(history[-1], validations, head, expected):
            found.append(Sign(f"{head}: {text}", head, validation=True))
        if text := _other_target(history[-1], head, expected):
            found.append(Sign(f"{head}: {text}", head, remark=True))
        if text := _worthless(of_head, head, expected):
            found.append(Sign(f"{head}: {text}", head, remark=True))
    return [*found, *(Sign(text) for text in _losses(history, list(heads)))]


def has_values(values: Mapping[str, float], head: str) -> bool:
    """Whether the head had pseudo-labels in the epoch."""
    return f"train/{head}/pass_rate" in values


def _pass_rate(history: Sequence[Mapping[str, float]], epochs: int, head: str, in_use: InUse) -> str | None:
    rates = [values[f"train/{head}/pass_rate"] for values in history]
    if len(rates) >= 2 and max(rates[-2:]) < _NEVER:
        lower = "lower the value of trainer.args.threshold or " if in_use.has_value else ""
        return (
            "no pseudo-label has been accepted for 2 epochs, so nothing is learned from the unlabeled images: "
            f"{lower}raise trainer.args.warm_up_epochs"
        )
    if 2 <= epochs == len(rates) and min(rates) > _ALWAYS and not in_use.starts_open:
        higher = (
            "raise the value of trainer.args.threshold" if in_use.has_value else "set trainer.args.threshold to fixed"
        )
        return f"every pseudo-label has been accepted for {epochs} epochs, so wrong ones are learned too: {higher}"
    return None


def _skew(history: Sequence[Mapping[str, float]], head: str, expected: Expected) -> str | None:
    """One class has taken over, or the shares have been far from the expected ones for 2 epochs."""
    shares = _shares(history[-1], head, expected)
    if shares is None or history[-1][f"train/{head}/pass_rate"] < _ENOUGH or _too_few(history[-1], head, expected):
        return None
    name = _most_above(shares, expected.shares)
    taken_over = shares[name] > _TAKEN_OVER and (
        expected.shares[name] < _NOT_COMMON
        or (_pushed_out(history[-1], head, name, expected.shares[name]) and not _lost(history, head, expected))
    )
    far = [
        not _too_few(values, head, expected) and _is_far(_shares(values, head, expected) or {}, expected.shares)
        for values in history[-2:]
    ]
    if not taken_over and not (len(far) == 2 and all(far)):
        return None
    advice = "set trainer.args.align to prior or lower trainer.args.lambda_u" if expected.can_align else _SLOWER
    return f"{_percent(shares[name])} of the accepted pseudo-labels are '{name}' while {_of(expected, name)}: {advice}"


def _too_few(values: Mapping[str, float], head: str, expected: Expected) -> bool:
    return values.get(f"train/{head}/accepted", math.inf) < _FEW * len(expected.shares)


def _pushed_out(values: Mapping[str, float], head: str, name: str, usual: float) -> bool:
    """Whether the class `name`, a common one, leaves the others less than a tenth of what they should have, not by
    chance, and not because they are predicted with too little confidence, as they are at the start of a good run."""
    others = 1 - usual
    accepted, predicted = (1 - values.get(f"train/{head}/{of}/{name}", 1.0) for of in ("pseudo", "predicted"))
    enough = values.get(f"train/{head}/accepted", math.inf) * others >= _NO_CHANCE
    return others >= _WORTH_SAYING and enough and accepted < _RARELY * others and predicted < _SELDOM * others


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
                f"({_percent(shares[-1][name])} of them while {_of(expected, name)}): "
                f"{_for_a_lost_class(expected.in_use, usual < 1 / len(expected.shares))}"
            )
    return None


def _for_a_lost_class(in_use: InUse, is_rare: bool) -> str:
    lower = ["lower its value"] if in_use.has_value else []
    if in_use.threshold != "freematch":
        lower = ["set trainer.args.threshold to freematch", *lower]
    advice = [" or ".join(lower)] if lower else []
    if is_rare and not in_use.adjusted:
        advice.append("set loss.type to logit_adjustment")
    return ", or ".join(advice) or _SLOWER


def _one_prediction(
    values: Mapping[str, float], validations: Sequence[Mapping[str, float]], head: str, expected: Expected
) -> str | None:
    """All validation images are predicted as one class: twice in a row, or the pseudo-labels are of it as well."""
    name = _predicted(values, head, expected)
    if name is None or expected.shares[name] > 1 - _WORTH_SAYING:
        return None
    shares = _shares(values, head, expected)
    agree = shares is not None and shares[name] > _TAKEN_OVER and values[f"train/{head}/pass_rate"] >= _ENOUGH
    if not agree and [_predicted(of_epoch, head, expected) for of_epoch in validations[-2:]] != [name] * 2:
        return None
    adjust = "" if expected.in_use.adjusted else " or set loss.type to logit_adjustment"
    if values[f"train/{head}/pass_rate"] < _NEVER or values.get("train/lambda_u") == 0:
        advice = f"this is not the unlabeled images', which have taught nothing: raise trainer.epochs{adjust}"
    elif expected.can_align:
        advice = f"set trainer.args.align to prior, {_SLOWER}"
    else:
        advice = f"{_SLOWER.replace(' or', ',')}{adjust}" if adjust else _SLOWER
    return f"every validation image is predicted as '{name}' while {_of(expected, name)}: {advice}"


def _other_target(values: Mapping[str, float], head: str, expected: Expected) -> str | None:
    """The pseudo-labels are far from the labels' shares because they are aligned to others, which nobody has given."""
    shares, labels = _shares(values, head, expected), expected.labels
    if labels is None or shares is None or values[f"train/{head}/pass_rate"] < _ENOUGH:
        return None
    if not _is_far(expected.shares, labels) or not _is_far(shares, labels):
        return None
    name = _most_above(shares, labels)
    return (
        f"{_percent(shares[name])} of the accepted pseudo-labels are '{name}' while {_percent(labels[name])} of the "
        "labels are, since the target of trainer.args.align is not the labels' shares: set trainer.args.align to "
        "prior, with distribution if the unlabeled images have other shares than the labels"
    )


def _worthless(history: Sequence[Mapping[str, float]], head: str, expected: Expected) -> str | None:
    """By the labels that were set aside, pseudo-labels are hardly better than the most common class for everybody."""
    shares = expected.labels or (expected.shares if expected.by_labels else None)
    found = [values.get(f"train/{head}/pseudo_accuracy", math.nan) for values in history[-2:]]
    if shares is None or len(found) < 2 or _too_few(history[-1], head, expected):
        return None
    name = max(shares, key=lambda of: shares[of])
    if not all(accuracy <= shares[name] + _LITTLE * (1 - shares[name]) for accuracy in found):
        return None
    return (
        f"{100 * found[-1]:.1f} % of the accepted pseudo-labels are right by the labels that were set aside, hardly "
        f"more than if all were '{name}' ({_percent(shares[name])}), so little can be learned from the unlabeled "
        "images: raise trainer.args.warm_up_epochs, start from pretrained weights (arch.args), or label more"
    )


def _predicted(values: Mapping[str, float], head: str, expected: Expected) -> str | None:
    """The class that (nearly) all labeled validation images are predicted as, where there are images of several."""
    recalls = {name: values.get(f"valid/{head}/recall/{name}", math.nan) for name in expected.shares}
    found = [name for name, recall in recalls.items() if recall > _ALL]
    others = [recall for name, recall in recalls.items() if name not in found and not math.isnan(recall)]
    return found[0] if len(found) == 1 and others and max(others) < _NONE else None


def _losses(history: Sequence[Mapping[str, float]], heads: Sequence[str]) -> list[str]:
    """The unlabeled loss of an accepted pseudo-label rises while the labeled loss falls."""
    labeled, unlabeled, rates = [], [], []
    for values in history:
        rates.append(sum(values.get(f"train/{head}/pass_rate", 0.0) for head in heads) / max(1, len(heads)))
        labeled.append(values["train/loss_labeled"])
        # Over all rows the loss rises with the pass rate, which is no fault.
        unlabeled.append(values["train/loss_unlabeled"] / max(rates[-1], _NEVER))
    if len(history) < EPOCHS or not (_rises(unlabeled) and _rises(labeled[::-1])):
        return []
    if rates[-1] < _HARDLY * rates[0]:  # a threshold that becomes stricter
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


def _excess(shares: Mapping[str, float], usual: Mapping[str, float]) -> dict[str, float]:
    """{class: its term of the KL divergence}."""
    return {name: s * math.log(max(s, 1e-12) / max(usual[name], 1e-12)) for name, s in shares.items()}


def _most_above(shares: Mapping[str, float], usual: Mapping[str, float]) -> str:
    terms = _excess(shares, usual)
    return max(terms, key=terms.__getitem__)


def _is_far(shares: Mapping[str, float], usual: Mapping[str, float]) -> bool:
    return sum(_excess(shares, usual).values()) > _FAR * math.log(len(usual))


def _of(expected: Expected, name: str) -> str:
    whose = "of the labels are" if expected.by_labels else "is the target of trainer.args.align"
    return f"{_percent(expected.shares[name])} {whose}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
