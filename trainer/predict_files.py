"""Classes of pictures that belong to no data set: files and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from base.base_dataset import Batch, checked
from data_loader.cache import Decoder, Images, unreadable
from data_loader.crops_mark import crops_note
from data_loader.dataset import FaceDataset
from data_loader.face_data import evaluation_batch
from data_loader.image_reader import ImageReader
from data_loader.readers.image_folder import EXTENSIONS, images_below
from data_loader.sampler import EvaluationSampler
from data_loader.views import View
from report.evaluation import HeadPrediction
from report.writer import prediction_table
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded, load_ensemble, predict
from trainer.test_time_views import TestTimeView
from utils.config import Config
from utils.errors import UserError, raise_all


def find_images(given: Sequence[Path]) -> list[Path]:
    """Every image file given or below a given folder, once; hidden files and folders (`.*`) are left out."""
    found: dict[Path, Path] = {}
    for path in given:
        if path.is_dir():
            files = [path / inner for inner in images_below(path)]
        elif path.is_file():
            files = [path]
        else:
            raise UserError(f"{path}: no such file or folder")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise UserError(f"{', '.join(map(str, given))}: no image here (endings: {', '.join(EXTENSIONS)})")
    return list(found.values())


class Files:
    """Decoded images in order, through the checkpoint's own evaluation view."""

    def __init__(self, config: Config, images: Images, device: torch.device):
        self.device, self.batch = device, evaluation_batch(config)
        view = View(config.to_dict()["views"]["eval"], config.views.shape, config.where("views.eval"))
        self.dataset = FaceDataset(images, {}, {"eval": {"image": view}}, config.seed)

    def batches_of(self, rows: np.ndarray) -> Iterator[Batch]:
        for keys in EvaluationSampler(rows, self.batch):
            yield checked(self.dataset.__getitems__(keys))


def as_trained(loaded: Loaded, files: Sequence[Path]) -> Decoder:
    """Images of files as the checkpoint's training decoded its own."""
    return Decoder(files, ImageReader.of(loaded.config.views))


def head_predictions(
    loaded: Loaded, images: Images, count: int, device: torch.device, views: Sequence[TestTimeView] = ()
) -> list[HeadPrediction]:
    """The heads of a checkpoint on `count` images; their labels are -1."""
    probs = predict(loaded, Files(loaded.config, images, device), np.arange(count), views)
    unlabeled = np.full(count, -1, dtype=np.int64)
    return [HeadPrediction(head, names, unlabeled, probs[head]) for head, names in loaded.classes.items()]


def predict_files(
    ensemble: Ensemble,
    files: Sequence[Path],
    device: torch.device,
    config_file: Path | None = None,
    overrides: list[str] | None = None,
    tell: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, list[str]]:
    """One row a file: path and per head prediction, confidence and probabilities; where heads make a joint label
    together, its prediction and confidence. Files that cannot be read have only their path; what is wrong with them.

    Raises UserError if none can be read.
    """
    models = list(load_ensemble(ensemble, device, config_file, overrides or []))
    for note in notes_about(models, files):
        tell(f"note: {note}")
    problems: dict[int, str] = {}
    try:
        found = _answers(ensemble, models, files, device)
    except UserError:
        problems = unreadable(files, ImageReader.of(models[0].config.views))
        if not problems or len(problems) == len(files):
            raise_all(list(problems.values()))
            raise
        found = _answers(ensemble, models, [f for row, f in enumerate(files) if row not in problems], device)
    table = found.drop(columns=[c for c in found if c == "split" or str(c).endswith("/label")])
    paths = pd.DataFrame({"path": [str(file) for file in files]})
    return paths.merge(table, on="path", how="left"), list(problems.values())


def notes_about(models: Sequence[Loaded], files: Sequence[Path]) -> list[str]:
    """Whether these are pictures of the kind that the models were trained on: face crops, or whole pictures."""
    folders = {file.parent for file in files}
    return [note for loaded in models for note in crops_note(loaded.path, loaded.data.get("crops"), folders)]


def _answers(ensemble: Ensemble, models: Sequence[Loaded], files: Sequence[Path], device: torch.device) -> pd.DataFrame:
    predictions = [
        head_predictions(loaded, as_trained(loaded, files), len(files), device, ensemble.views) for loaded in models
    ]
    rows = pd.DataFrame({"path": [str(file) for file in files], "split": ""})
    return prediction_table(rows, ensemble.answer(predictions))
