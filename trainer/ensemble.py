"""Which checkpoints answer, and how their predictions become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from report.calibration_file import Calibration, Predictor, check_predictor, read_calibration, sources
from report.evaluation import HeadPrediction
from report.vote import check_vote, combine
from trainer.test_time_views import TestTimeView, choose_views
from utils.checkpoint import load_checkpoint
from utils.files import sha256_of
from utils.run_folder import checkpoint_in


@dataclass(frozen=True)
class Ensemble:
    """What `test.py` and `predict.py` are told about checkpoints: --resume, --vote, --weights, --tta, --calibration.

    Raises UserError for options that do not fit, before any checkpoint is read.
    """

    paths: Sequence[Path]
    vote: str = "soft"
    weights: Sequence[float] | None = None
    tta: Sequence[str] = ()
    calibration: Path | None = None
    views: Sequence[TestTimeView] = field(init=False)
    fitted: Calibration | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        check_vote(len(self.paths), self.vote, self.weights)
        object.__setattr__(self, "views", choose_views(self.tta))
        if self.calibration is not None:
            fitted = read_calibration(self.calibration)
            check_predictor(self.calibration, fitted.predictor, self.predictor())
            object.__setattr__(self, "fitted", fitted)

    def predictor(self) -> Predictor:
        """What a calibration is fitted for. Raises UserError if a checkpoint is missing."""
        files = [checkpoint_in(path, best=True) for path in self.paths]
        for file in files:
            if not file.is_file():
                load_checkpoint(file)  # raises, and says what is there
        vote = self.vote if len(files) > 1 else "soft"
        weighted = sources([sha256_of(file) for file in files], self.weights)
        return Predictor.model_validate({"checkpoints": weighted, "vote": vote, "tta": sorted(self.tta)})

    def answer(self, predictions: Sequence[Sequence[HeadPrediction]]) -> list[HeadPrediction]:
        """One head of each name, from the heads of each checkpoint on the same images; calibrated, if so asked."""
        heads = combine(predictions, self.vote, self.weights)
        return heads if self.fitted is None else [self.fitted.apply(head) for head in heads]
