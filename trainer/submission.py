"""The mask competition's submission file from checkpoints."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from data_loader.readers.mask_faces import eval_files
from report.evaluation import HeadPrediction
from report.run_files import read_epochs
from report.submission import joint_answers, write_submission
from report.submissions import LEDGER, record
from trainer.build import open_files
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded, load_ensemble
from trainer.pictures import head_predictions, notes_about
from utils.errors import UserError
from utils.joint import JOINT
from utils.run_folder import is_run_folder, save_dir_of

METRIC = f"valid/{JOINT}/macro_f1"  # what the competition ranks by


def submit(
    ensemble: Ensemble,
    device: torch.device,
    config_file: Path | None,
    overrides: list[str],
    out: Path,
    tell: Callable[[str], None] = print,
) -> None:
    """Predict the competition's evaluation images with checkpoints and write `out`, checked against info.csv.

    Each model sees those beside the training data of its own config, such as crops; `-s dataset.args.root=…` moves all.
    Raises UserError if these are not the same ImageIDs.
    """
    checkpoints = list(load_ensemble(ensemble, device, config_file, overrides))
    if out.resolve() == (_ledger_folder(checkpoints[0]) / LEDGER).resolve():
        raise UserError(f"--submission {out}: is the list of submissions; choose another name")
    places = [eval_files(_root_of(loaded)) for loaded in checkpoints]
    info, names = places[0][0], [file.name for file in places[0][1]]
    for loaded, (other, files) in zip(checkpoints, places):
        different = set(names).symmetric_difference(file.name for file in files)
        if different:
            raise UserError(
                f"{loaded.path}: {other} has other images than {info} ({len(different):,}, such as "
                f"{min(different)}); models answer together about the same ones"
            )

    def predictions(loaded: Loaded, files: Sequence[Path]) -> list[HeadPrediction]:
        for note in notes_about([loaded], files):
            tell(f"note: {note}")
        of_name = {file.name: file for file in files}
        images = open_files(loaded.config, [of_name[name] for name in names], tell)
        return head_predictions(loaded, images, len(names), device, ensemble.views)

    found = [predictions(loaded, files) for loaded, (_, files) in zip(checkpoints, places)]
    answers = joint_answers(ensemble.answer(found))
    counts = write_submission(info, dict(zip(names, answers.tolist())), out)
    given = sum(count > 0 for count in counts)
    for loaded in checkpoints:
        tell(f"{loaded.path}: run {loaded.run}, step {loaded.step:,}")
    for other in list(dict.fromkeys(place for place, _ in places))[1:]:
        tell(f"some models see the images beside {other}, which are called the same")
    tell(f"{out}: {len(names):,} images of {info}; {given} of {len(counts)} answers are given")
    tell(_enter(ensemble, checkpoints, out))


def _root_of(loaded: Loaded) -> str:
    data_sets = [part for _, part in loaded.config.data_sets]
    data = next((part for part in data_sets if part.type == "MaskFaces"), data_sets[0])
    root = data.args.get("root")
    if not isinstance(root, str):
        raise UserError(f"{loaded.path}: its config has no dataset.args.root to find info.csv by")
    return root


def _ledger_folder(loaded: Loaded) -> Path:
    return save_dir_of(loaded.run_dir) if is_run_folder(loaded.run_dir) else loaded.path.absolute().parent


def _own_score(loaded: Loaded) -> float:
    """On its validation images, as its run logged it at the step of the checkpoint; NaN if it did not."""
    rows = [row for row in read_epochs(loaded.run_dir) if row.get("step") == loaded.step]
    return rows[-1].get(METRIC, math.nan) if rows else math.nan


def _enter(ensemble: Ensemble, checkpoints: Sequence[Loaded], out: Path) -> str:
    """Enter a submission in the ledger of the first checkpoint's SAVE_DIR; returns a line about it."""
    first = checkpoints[0]
    folder = _ledger_folder(first)
    runs = list(dict.fromkeys(loaded.run for loaded in checkpoints))
    how = [f"{ensemble.vote} vote"] if len(checkpoints) > 1 else []
    how += [f"weights {' '.join(f'{weight:g}' for weight in ensemble.weights)}"] if ensemble.weights else []
    how += [f"tta {' '.join(ensemble.tta)}"] if ensemble.tta else []
    how += [f"calibration {ensemble.calibration}"] if ensemble.calibration else []
    try:
        valid = sum(map(_own_score, checkpoints)) / len(checkpoints)
        own = None if math.isnan(valid) else (METRIC, valid)
        ledger = record(folder, out, [loaded.path for loaded in checkpoints], runs, ", ".join(how), own)
    except (OSError, UserError) as error:  # the submission is there and is what counts
        return f"note: it was not entered in the list of submissions: {error}"
    command = ["python", "prepare.py", "submissions", str(out), "--public"]
    if ledger.resolve() != (Path("saved") / ledger.name).resolve():
        command[4:4] = ["--saved", str(folder)]
    score = "" if own is None else f" with {METRIC} {valid:.4f}"
    return f"entered in {ledger}{score}; keep what the leaderboard says:  {shlex.join(command)} SCORE"
