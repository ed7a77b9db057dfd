"""Does the pseudo-labeling go wrong? Asked after each epoch; the answer is a line for people, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from trainer.collapse_signs import EPOCHS, Expected, Sign, find_collapse, has_values

PATIENCE = 2
"""After how many epochs in a row with a warning `on_collapse` acts."""

_STATE = ("epochs", "in_a_row", "warm_up_until", "history", "validations", "awaits_validation", "remarks")


class CollapseGuard(nn.Module):
    """The history that `find_collapse` needs, in the checkpoint, so that a resumed run says and does the same.

    epochs: with pseudo-labels, in_a_row: of them with a sign, both since the last action. An epoch without validation
    does not end a row whose last sign was about the validation images. warm_up_until: the step at which the unlabeled
    loss comes back after `on_collapse: warm_up`, else 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.in_a_row = 0
        self.warm_up_until = 0
        self.history: list[dict[str, float]] = []
        self.validations: list[dict[str, float]] = []
        self.awaits_validation = False
        self.remarks: list[str | None] = []

    def observe(self, values: Mapping[str, float], heads: Mapping[str, Expected]) -> list[Sign] | None:
        """Take in an epoch's values, once, and return what is wrong; None if the epoch had no pseudo-labels."""
        if not any(has_values(values, head) for head in heads):
            return None
        self.epochs += 1
        kept = {k: v for k, v in values.items() if k.startswith("train/") or "/recall/" in k}
        self.history = [*self.history[1 - EPOCHS :], kept]
        validated = {k: v for k, v in kept.items() if k.startswith("valid/")}
        self.validations = [*self.validations[-1:], validated] if validated else self.validations
        found = find_collapse(self.history, self.epochs, heads, self.validations)
        signs = [sign for sign in found if not sign.remark]
        if signs:
            self.in_a_row += 1
            self.awaits_validation = any(sign.validation for sign in signs)
        else:
            waits = self.awaits_validation and not validated
            self.in_a_row = min(self.in_a_row, PATIENCE - 1) if waits else 0
        return [*signs, *self._new(sign for sign in found if sign.remark)]

    def _new(self, remarks: Iterable[Sign]) -> list[Sign]:
        """Those about heads that nothing has been remarked about."""
        new = [sign for sign in remarks if sign.head not in self.remarks]
        self.remarks += [sign.head for sign in new]
        return new

    @property
    def must_act(self) -> bool:
        return self.in_a_row >= PATIENCE

    def start_anew(self) -> None:
        """Something has been done about the signs: what was before it counts no more."""
        self.epochs, self.in_a_row, self.history, self.validations = 0, 0, [], []
        self.awaits_validation = False

    def get_extra_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _STATE}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
