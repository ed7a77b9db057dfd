"""Classes of pictures that belong to no data set: files and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from base.scoring import Normalize
from data_loader.cache import read_image
from data_loader.views import View
from report.evaluation import HeadPrediction
from report.vote import combine
from report.writer import prediction_table
from trainer.evaluate import Loaded, load_for_evaluation
from utils.errors import UserError

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_BATCH = 128


def find_images(given: Sequence[Path]) -> list[Path]:
    """Every image file given or below a given folder, sorted by path; AppleDouble files (`._*`) are none."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith("._"))
            found += sorted(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    if not found:
        raise UserError(f"{', '.join(map(str, given))}: no image here (endings: {', '.join(sorted(IMAGE_ENDINGS))})")
    return found


def predict_files(checkpoints: Sequence[Path], files: Sequence[Path], device: torch.device) -> pd.DataFrame:
    """One row a file: path and per head prediction, confidence and probabilities (mean over checkpoints)."""
    votes = []
    for path in checkpoints:
        loaded = load_for_evaluation(path, device)
        parts = list(_probabilities(loaded, files, device))
        unknown = np.full(len(files), -1, dtype=np.int64)
        votes.append(
            [
                HeadPrediction(head, names, unknown, np.concatenate([part[head] for part in parts]))
                for head, names in loaded.classes.items()
            ]
        )
    rows = pd.DataFrame({"path": [str(file) for file in files], "split": ""})
    table = prediction_table(rows, combine(votes, "soft"))
    return table.drop(columns=[c for c in table if c == "split" or c.endswith("/label")])


@torch.no_grad()
def _probabilities(loaded: Loaded, files: Sequence[Path], device: torch.device) -> Iterator[dict[str, np.ndarray]]:
    size = loaded.config.views.shape
    view = View(loaded.config.to_dict()["views"]["eval"], size)
    mean, std = loaded.normalization
    normalize = Normalize(mean, std, device)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            sources = list(pool.map(lambda file: read_image(file, size), batch))
            images = np.stack([view(source, seed=start + i) for i, source in enumerate(sources)])
            logits = loaded.model(normalize(torch.from_numpy(images).to(device)))
            yield {head: logits[head].double().softmax(dim=1).cpu().numpy() for head in loaded.classes}
