"""calibration.json: what was fitted, and for which checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from report.calibration import HeadCalibration
from report.evaluation import HeadPrediction
from utils.errors import UserError
from utils.files import atomic_write

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """A checkpoint by its content."""

    sha256: str
    weight: float = Field(gt=0, allow_inf_nan=False)
    """Its share in the vote; the shares sum to 1."""


class Predictor(_Part):
    """Everything that the probabilities depend on besides the image; `checkpoints` in an order of their own."""

    checkpoints: list[Source]
    vote: Literal["soft", "hard"]
    tta: list[str]


class FittedHead(_Part):
    classes: list[str]
    temperature: float = Field(gt=0, allow_inf_nan=False)
    offsets: list[_Finite] | None


class FittedOn(_Part):
    split: str
    images: int
    groups: int


class Calibration(_Part):
    """The content of calibration.json."""

    format: Literal[1] = 1
    predictor: Predictor
    fitted_on: FittedOn
    methods: list[str]
    heads: dict[str, FittedHead]
    scores: dict[str, dict[str, dict[str, float] | None]]

    def apply(self, head: HeadPrediction) -> HeadPrediction:
        """The head calibrated; as it is if it was not fitted. Raises UserError for other classes."""
        fitted = self.heads.get(head.name)
        if fitted is None:
            return head
        if fitted.classes != list(head.classes) or (fitted.offsets and len(fitted.offsets) != len(head.classes)):
            raise UserError(
                f"calibration of head '{head.name}': it was fitted for the classes {', '.join(fitted.classes)}; "
                f"the model has {', '.join(head.classes)}"
            )
        return HeadCalibration(fitted.temperature, tuple(fitted.offsets) if fitted.offsets else None).apply(head)


def read_calibration(path: Path) -> Calibration:
    """Raises UserError if there is no such file or it is none of ours."""
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"--calibration {path}: no such file; test.py --fit temperature writes one") from None
    except (OSError, ValidationError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else None
        where = ".".join(map(str, problem["loc"])) if problem else ""
        what = f"{where}: {problem['msg']}" if problem else str(error)
        raise UserError(f"--calibration {path}: not a calibration that test.py --fit wrote: {what}") from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    text = json.dumps(calibration.model_dump(), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text + "\n")


def check_predictor(path: Path, fitted: Predictor, given: Predictor) -> None:
    """Raises UserError if a calibration was fitted for other checkpoints, weights, votes or views than are given."""
    wrong = []
    if sorted(s.sha256 for s in fitted.checkpoints) != sorted(s.sha256 for s in given.checkpoints):
        wrong.append("other checkpoints")
    elif fitted.checkpoints != given.checkpoints:
        wrong.append("other --weights")
    if fitted.vote != given.vote:
        wrong.append(f"--vote {fitted.vote}")
    if fitted.tta != given.tta:
        wrong.append(f"--tta {' '.join(fitted.tta)}" if fitted.tta else "no --tta")
    if wrong:
        raise UserError(
            f"--calibration {path}: it was fitted for {', '.join(wrong)}; it holds for exactly what it was fitted for: "
            "give the same, or fit anew with test.py --fit"
        )


def sources(digests: Sequence[str], weights: Sequence[float] | None) -> list[Source]:
    """Checkpoints in an order that does not depend on how they are named."""
    shares = [1.0] * len(digests) if weights is None else list(weights)
    found = [Source(sha256=digest, weight=round(share / sum(shares), 9)) for digest, share in zip(digests, shares)]
    return sorted(found, key=lambda source: (source.sha256, source.weight))
