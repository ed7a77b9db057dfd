"""Which checkpoints answer, and how their predictions become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from report.evaluation import HeadPrediction
from report.vote import check_vote, combine
from trainer.test_time_views import TestTimeView, choose_views


@dataclass(frozen=True)
class Ensemble:
    """What `test.py` and `predict.py` are told about checkpoints: --resume, --vote, --weights, --tta.

    Raises UserError for options that do not fit, before any checkpoint is read.
    """

    paths: Sequence[Path]
    vote: str = "soft"
    weights: Sequence[float] | None = None
    tta: Sequence[str] = ()
    views: Sequence[TestTimeView] = field(init=False)

    def __post_init__(self) -> None:
        check_vote(len(self.paths), self.vote, self.weights)
        object.__setattr__(self, "views", choose_views(self.tta))

    def answer(self, predictions: Sequence[Sequence[HeadPrediction]]) -> list[HeadPrediction]:
        """One head of each name, from the heads of each checkpoint on the same images."""
        return combine(predictions, self.vote, self.weights)
