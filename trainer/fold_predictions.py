"""What the models of all folds predict: every image by the one that did not see it, and what none has seen by each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_loader.face_data import FaceData
from data_loader.label_frame import LabelFrame
from data_loader.prepare_labels import Labels, read_labels
from data_loader.readers.mask_faces import eval_files
from data_loader.split_file import read_split, split_digest
from report.evaluation import HeadPrediction
from report.fold_vote import vote_summary
from report.folds import fold_summary
from report.writer import prediction_table
from trainer.build import open_files, open_run_images
from trainer.evaluate import Loaded, load_for_evaluation, predict
from trainer.pictures import head_predictions
from trainer.scored_rows import started_from
from utils.config import Config
from utils.errors import UserError
from utils.files import atomic_write
from utils.run_folder import best_checkpoint


def predict_folds(config: Config, folder: Path, run_dirs: Sequence[Path], device: torch.device) -> dict[str, Any]:
    """Write what the best models of the folds' runs predict, and return the folds' summary.

    oof.csv: every labeled row that is in a fold, in the order of the label frame. test.csv, if there is a test split:
    its labeled rows, once for each fold's model. eval.csv, if the reader has evaluation images: these, likewise.
    """
    frame = read_labels(config)
    images = open_run_images(config, Labels(frame, frame.rows["path"]), print)
    evaluation = _evaluation_files(config)
    fold_of = np.zeros(len(frame), dtype=np.int64)
    probs = {head: np.zeros((len(frame), len(names))) for head, names in frame.classes.items()}
    test: list[list[HeadPrediction]] = []
    further: list[list[HeadPrediction]] = []
    test_rows = np.zeros(0, dtype=np.int64)
    checkpoints, notes = list[str](), list[str]()
    for fold, run_dir in enumerate(run_dirs, start=1):
        loaded, labels = _load_fold(run_dir, frame, device)
        data = FaceData(config, labels, images, {}, device)
        rows, test_rows = data.evaluation_rows("valid"), data.evaluation_rows("test")
        for head, values in predict(loaded, data, rows).items():
            probs[head][rows] = values
        fold_of[rows] = fold
        if len(test_rows):
            test.append(_heads(frame, test_rows, predict(loaded, data, test_rows)))
        if evaluation:
            decoded = open_files(config, evaluation, print)
            further.append(head_predictions(loaded, decoded, len(evaluation), device))
        checkpoints.append(str(loaded.path))
        notes += [f"fold {fold}: {note}" for note in started_from(loaded.data)]
    rows = np.flatnonzero(fold_of)
    heads = _heads(frame, rows, {head: values[rows] for head, values in probs.items()})
    groups = frame.rows["group"].to_numpy(dtype=object)
    _write(folder / "oof.csv", [_table(frame.rows["path"].to_numpy()[rows], heads, fold_of[rows], groups[rows])])
    if test:
        paths = frame.rows["path"].to_numpy()[test_rows]
        _write(folder / "test.csv", [_table(paths, of, n, groups[test_rows]) for n, of in enumerate(test, start=1)])
    if further:
        names = np.array([file.name for file in evaluation], dtype=object)
        tables = [_table(names, of, n).filter(regex="^(?!.*/label$)") for n, of in enumerate(further, start=1)]
        _write(folder / "eval.csv", tables)
    summary = fold_summary(heads, groups[rows].tolist(), fold_of[rows])
    vote = vote_summary(test, groups[test_rows].tolist()) if test else None
    return {"checkpoints": checkpoints, "notes": notes, **summary, "vote": vote}


def _evaluation_files(config: Config) -> list[Path]:
    """The competition's evaluation images, if they are there."""
    root = next((part.args.get("root") for _, part in config.data_sets if part.type == "MaskFaces"), None)
    if root is None:
        return []
    try:
        return eval_files(root)[1]
    except UserError as error:
        print(f"no eval.csv: {error}")
        return []


def _load_fold(run_dir: Path, frame: LabelFrame, device: torch.device) -> tuple[Loaded, Labels]:
    """A fold's best model and the split that it was trained on. Raises UserError if the data has changed since."""
    loaded = load_for_evaluation(best_checkpoint(run_dir), device)
    split = read_split(run_dir / "split.csv", frame)[0]
    if split_digest(frame, split) != loaded.data["digest"] or loaded.classes != frame.heads:
        raise UserError(
            f"{loaded.path}: the groups or classes of the data have changed since this fold was trained; "
            "train the folds anew"
        )
    return loaded, Labels(frame, split)


def _heads(frame: LabelFrame, rows: np.ndarray, probs: dict[str, np.ndarray]) -> list[HeadPrediction]:
    return [
        HeadPrediction(head, names, frame.rows[head].to_numpy(np.int64)[rows], probs[head])
        for head, names in frame.heads.items()
    ]


def _table(
    paths: np.ndarray, heads: Sequence[HeadPrediction], fold: np.ndarray | int, groups: np.ndarray | None = None
) -> pd.DataFrame:
    table = prediction_table(pd.DataFrame({"path": paths, "split": ""}), heads).drop(columns="split")
    table.insert(1, "fold", fold)
    if groups is not None:
        table.insert(1, "group", groups)
    return table


def _write(path: Path, tables: Sequence[pd.DataFrame]) -> None:
    text = pd.concat(tables).to_csv(index=False, lineterminator="\n")
    atomic_write(path, text)
