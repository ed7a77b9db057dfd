"""The mask competition's submission file from checkpoints."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from data_loader.readers.mask_faces import eval_files
from report.evaluation import HeadPrediction
from report.runs import read_epochs
from report.submission import joint_answers, write_submission
from report.submissions import LEDGER, record
from trainer.build import open_files
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded, load_ensemble
from trainer.predict_files import head_predictions
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

    The images are those beside the training data of the first checkpoint's config (`-s dataset.args.root=…` to move).
    """
    checkpoints = list(load_ensemble(ensemble, device, config_file, overrides))
    if out.resolve() == (_ledger_folder(checkpoints[0]) / LEDGER).resolve():
        raise UserError(f"--submission {out}: is the list of submissions; choose another name")
    data_sets = [part for _, part in checkpoints[0].config.data_sets]
    data = next((part for part in data_sets if part.type == "MaskFaces"), data_sets[0])
    root = data.args.get("root")
    if not isinstance(root, str):
        raise UserError(f"{ensemble.paths[0]}: its config has no dataset.args.root to find info.csv by")
    info, files = eval_files(root)

    def predictions(loaded: Loaded) -> list[HeadPrediction]:
        images = open_files(loaded.config, files, tell)
        return head_predictions(loaded, images, len(files), device, ensemble.views)

    answers = joint_answers(ensemble.answer([predictions(loaded) for loaded in checkpoints]))
    counts = write_submission(info, dict(zip((file.name for file in files), answers.tolist())), out)
    given = sum(count > 0 for count in counts)
    tell(f"{out}: {len(files):,} images of {info}; {given} of {len(counts)} answers are given")
    tell(_enter(ensemble, checkpoints, out))


def _ledger_folder(loaded: Loaded) -> Path:
    return save_dir_of(loaded.run_dir) if is_run_folder(loaded.run_dir) else loaded.path.absolute().parent


def _own_score(loaded: Loaded) -> float:
    """On its validation images, as its run logged it at the step of the checkpoint; NaN if it did not."""
    rows = [row for row in read_epochs(loaded.run_dir) if row["step"] == loaded.step]
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
    return f"entered in {ledger}; keep what the leaderboard says:  {shlex.join(command)} SCORE"
