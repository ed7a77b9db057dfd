"""A trained model, or several that vote, for pictures in files or in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_loader.cache import Images, unreadable
from data_loader.image_reader import ImageReader
from report.writer import prediction_table
from trainer.ensemble import Ensemble
from trainer.evaluate import Loaded, load_ensemble
from trainer.pictures import as_trained, head_predictions, notes_about
from utils.device import choose_device
from utils.errors import UserError, raise_all


class FacePredictor:
    """Tables with a row per picture: for each head `HEAD/prediction`, `HEAD/confidence` and `HEAD/p/CLASS`; where heads
    make a joint label together, its prediction and confidence too.

    checkpoints: `.pth` files or folders of runs, whose best one counts. device, overrides (`KEY=VALUE`), config_file:
    as for predict.py. options: vote, weights, tta and calibration of `Ensemble`.
    Raises UserError as predict.py says it.
    """

    def __init__(
        self,
        *checkpoints: str | Path,
        device: str = "auto",
        overrides: Sequence[str] = (),
        config_file: Path | None = None,
        **options: Any,
    ):
        if not checkpoints:
            raise UserError("name at least one checkpoint (.pth, or a run folder)")
        if options.get("calibration") is not None:
            options["calibration"] = Path(options["calibration"])
        self.ensemble, self.device = Ensemble([Path(path) for path in checkpoints], **options), choose_device(device)
        self.models = list(load_ensemble(self.ensemble, self.device, config_file, list(overrides)))

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """The class names of each head, in the order of its columns."""
        return {head: names for loaded in self.models for head, names in loaded.classes.items()}

    def files(self, files: Sequence[str | Path]) -> pd.DataFrame:
        """With a column `path`. Raises UserError naming a file that cannot be read, ValueError for no file or a name in
        place of a list."""
        if isinstance(files, str | Path) or not len(files):
            raise ValueError(f"expected a list of at least one file, got {files!r}")
        paths = [Path(file) for file in files]
        return self._table(lambda loaded: as_trained(loaded, paths), paths)

    def arrays(self, images: Sequence[np.ndarray]) -> pd.DataFrame:
        """images: uint8 [h, w, 3] RGB each, of any sizes; pictures of PIL will do. Raises ValueError for others."""
        if not len(images):
            raise ValueError("expected a list of at least one image")
        images = [np.asarray(image) for image in images]
        for number, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"image {number}: expected uint8 [h, w, 3], got {image.dtype} {list(image.shape)}")
        return self._table(lambda loaded: InMemory(images, loaded), range(len(images))).drop(columns="path")

    def _table(self, images_of: Callable[[Loaded], Images], names: Sequence[object]) -> pd.DataFrame:
        views = self.ensemble.views
        found = [head_predictions(one, images_of(one), len(names), self.device, views) for one in self.models]
        rows = pd.DataFrame({"path": [str(name) for name in names], "split": ""})
        table = prediction_table(rows, self.ensemble.answer(found))
        return table.drop(columns=[name for name in table if name == "split" or str(name).endswith("/label")])


def predict_files(
    predictor: FacePredictor, files: Sequence[Path], tell: Callable[[str], None] = print
) -> tuple[pd.DataFrame, list[str]]:
    """`predictor.files`, where files that cannot be read have only their path; and what is wrong with them.

    Raises UserError if none can be read.
    """
    for note in notes_about(predictor.models, files):
        tell(f"note: {note}")
    try:
        return predictor.files(files), []
    except UserError:
        problems = unreadable(files, ImageReader.of(predictor.models[0].config.views))
        if not problems or len(problems) == len(files):
            raise_all(list(problems.values()))
            raise
    found = predictor.files([file for row, file in enumerate(files) if row not in problems])
    paths = pd.DataFrame({"path": [str(file) for file in files]})
    return paths.merge(found, on="path", how="left"), list(problems.values())


class InMemory:
    """Decoded pictures as the checkpoint's training read its own from files."""

    def __init__(self, images: Sequence[np.ndarray], loaded: Loaded):
        self.images, self.read = images, ImageReader.of(loaded.config.views)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.read.of_pixels(self.images[row])
