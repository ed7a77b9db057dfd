"""The mask competition's submission file from checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from data_loader.readers.mask_faces import eval_files
from report.evaluation import HeadPrediction
from report.submission import joint_answers, write_submission
from trainer.build import open_files
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded, load_ensemble
from trainer.predict_files import head_predictions
from utils.errors import UserError


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
