"""Pictures that belong to no data set: files and folders, through a checkpoint's own evaluation view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from base.base_dataset import Batch, checked
from data_loader.cache import Decoder, Images
from data_loader.crops_mark import crops_note
from data_loader.dataset import FaceDataset
from data_loader.face_data import evaluation_batch
from data_loader.image_reader import ImageReader
from data_loader.readers.image_folder import EXTENSIONS, images_below
from data_loader.sampler import EvaluationSampler
from data_loader.views import View
from report.evaluation import HeadPrediction
from trainer.evaluate import Loaded, predict
from trainer.test_time_views import TestTimeView
from utils.config import Config
from utils.errors import UserError


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


def notes_about(models: Sequence[Loaded], files: Sequence[Path]) -> list[str]:
    """Whether these are pictures of the kind that the models were trained on: face crops, or whole pictures."""
    folders = {file.parent for file in files}
    return [note for loaded in models for note in crops_note(loaded.path, loaded.data.get("crops"), folders)]
