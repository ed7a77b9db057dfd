"""`test.py --fit`: temperature and thresholds of the checkpoints' answer, fitted on validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report.calibration import HOTTEST, METHODS, Fit, fit_calibration
from report.calibration_file import Calibration, FittedHead, FittedOn, write_calibration
from report.evaluation import HeadPrediction
from trainer.ensemble import Ensemble
from utils.errors import UserError, did_you_mean


def check_fit(methods: Sequence[str], ensemble: Ensemble, split: str) -> None:
    """Raises UserError for a method that there is not, and for options that a fit cannot go with."""
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--fit {method}: cannot be fitted{did_you_mean(method, METHODS)}")
    given = f"--fit {' '.join(methods)}"
    if methods and split != "valid":
        raise UserError(
            f"{given}: the fit is on the images of valid, so that test stays unseen; leave out --split {split}"
        )
    if methods and ensemble.calibration is not None:
        raise UserError(f"{given}: --calibration would be fitted on top of another fit; leave one of them out")
    if methods and ensemble.vote == "hard" and len(ensemble.paths) > 1:
        raise UserError(f"{given}: hard votes are shares of checkpoints, not probabilities; use --vote soft")


def calibrate(
    ensemble: Ensemble,
    heads: Sequence[HeadPrediction],
    groups: Sequence[str],
    methods: Sequence[str],
    split: str,
    folder: Path,
) -> tuple[dict[str, Any] | None, list[HeadPrediction], list[str]]:
    """Fit `methods` and write `folder`/calibration.json, or say what the ensemble has applied.

    Returns what metrics.json says about it (None: nothing was asked for), the cross-fitted heads, and notes.
    """
    if methods:
        return _fit_and_save(ensemble, heads, groups, methods, split, folder / "calibration.json")
    if ensemble.fitted is None or ensemble.calibration is None:
        return None, [], []
    seen = (
        f"the calibration was fitted on the images of valid, so their scores here are too good; {ensemble.calibration} "
        "has the cross-fitted ones"
    )
    return _said_of(ensemble.fitted, ensemble.calibration), [], [seen] if split in ("valid", "all") else []


def _fit_and_save(
    ensemble: Ensemble,
    heads: Sequence[HeadPrediction],
    groups: Sequence[str],
    methods: Sequence[str],
    split: str,
    path: Path,
) -> tuple[dict[str, Any], list[HeadPrediction], list[str]]:
    fit = fit_calibration([head for head in heads if head.labeled.any()], groups, methods)
    classes = {head.name: list(head.classes) for head in heads}
    fitted = {
        name: FittedHead(
            classes=classes[name],
            temperature=found.temperature,
            offsets=None if found.offsets is None else list(found.offsets),
        )
        for name, found in fit.heads.items()
    }
    calibration = Calibration(
        predictor=ensemble.predictor(),
        fitted_on=FittedOn(split=split, images=len(groups), groups=len(set(groups))),
        methods=[method for method in METHODS if method in methods],
        heads=fitted,
        scores=fit.scores,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_calibration(path, calibration)
    return {**_said_of(calibration, path), "scores": fit.scores}, fit.cross_fitted, _notes(fit, methods)


def _said_of(calibration: Calibration, path: Path) -> dict[str, Any]:
    """What metrics.json says about a calibration."""
    return {"file": str(path), **calibration.model_dump(include={"fitted_on", "methods", "heads"})}


def _notes(fit: Fit, methods: Sequence[str]) -> list[str]:
    notes = []
    for method, score, name, sign in (
        ("thresholds", "macro_f1", "macro F1", 1),
        ("temperature", "nll", "log loss", -1),
    ):
        for head, kinds in fit.scores.items() if method in methods else ():
            before, crossed = kinds["before"], kinds["cross_fitted"]
            if before and crossed and sign * (crossed[score] - before[score]) < 0:
                notes.append(
                    f"head '{head}': on images that it was not fitted on the fit of {method} makes the {name} worse "
                    f"({before[score]:.3f} before, {crossed[score]:.3f} cross-fitted), so it is better left out"
                )
    for name, found in fit.heads.items():
        if not 1.001 / HOTTEST < found.temperature < HOTTEST / 1.001:
            notes.append(
                f"head '{name}': the temperature is at its limit of {found.temperature:g}; the images are too few, too "
                "easy or too hard to tell how sure the model should be"
            )
    if not fit.cross_fitted:
        notes.append("all images belong to one group, so there is no cross-fitted score of the calibration")
    return notes
