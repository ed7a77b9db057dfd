"""Classes of pictures that belong to no data set: files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from base.base_dataset import Batch, checked
from data_loader.cache import Decoder, Images, read_all
from data_loader.dataset import FaceDataset
from data_loader.readers.image_folder import EXTENSIONS, images_below
from data_loader.sampler import EvaluationSampler
from data_loader.views import View
from report.evaluation import HeadPrediction
from report.writer import prediction_table
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded, load_for_evaluation, predict
from trainer.test_time_views import TestTimeView
from utils.config import Config
from utils.errors import UserError

_BATCH = 256


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
        self.device = device
        view = View(config.to_dict()["views"]["eval"], config.views.shape, config.where("views.eval"))
        self.dataset = FaceDataset(images, {}, {"eval": {"image": view}}, config.seed)

    def batches_of(self, rows: np.ndarray) -> Iterator[Batch]:
        for keys in EvaluationSampler(rows, _BATCH):
            yield checked(self.dataset.__getitems__(keys))


def head_predictions(
    loaded: Loaded, images: Images, count: int, device: torch.device, views: Sequence[TestTimeView] = ()
) -> list[HeadPrediction]:
    """The heads of a checkpoint on `count` images; their labels are -1."""
    probs = predict(loaded, Files(loaded.config, images, device), np.arange(count), views)
    unlabeled = np.full(count, -1, dtype=np.int64)
    return [HeadPrediction(head, names, unlabeled, probs[head]) for head, names in loaded.classes.items()]


def predict_files(ensemble: Ensemble, files: Sequence[Path], device: torch.device) -> pd.DataFrame:
    """One row a file: path and per head prediction, confidence and probabilities; where heads make a joint label
    together, its prediction and confidence."""
    predictions = []
    for path in ensemble.paths:
        loaded = load_for_evaluation(path, device)
        images = Decoder(files, loaded.config.views.shape)
        try:
            predictions.append(head_predictions(loaded, images, len(files), device, ensemble.views))
        except UserError:
            read_all(files, loaded.config.views.shape)  # says of all files what this said of the first
            raise
    rows = pd.DataFrame({"path": [str(file) for file in files], "split": ""})
    table = prediction_table(rows, ensemble.answer(predictions))
    return table.drop(columns=[c for c in table if c == "split" or str(c).endswith("/label")])
