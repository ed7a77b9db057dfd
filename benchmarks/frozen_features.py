"""What a user gets in seconds: logistic regression on the features of the backbone as it was downloaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from base.base_dataset import to_device
from base.scoring import Normalize
from data_loader.face_data import FaceData
from data_loader.prepare_labels import Labels, prepare_labels
from report.evaluation import HeadPrediction
from trainer.build import build_model, choose_normalization, open_run_images
from utils.config import Config
from utils.files import atomic_path, sha256_of
from utils.random_state import seed_everything


def logistic_regression(config: Config, split: str, folder: Path) -> list[HeadPrediction]:
    """Each head's answer for the rows of `split`, fitted on the labeled training rows (balanced class weights).

    folder: the features of all rows are kept there, for the same weights, views and images.
    """
    labels = prepare_labels(config)
    features = _features(config, labels, folder)
    train, scored = (np.asarray(labels.rows(part), dtype=np.int64) for part in ("train", split))
    heads = []
    for head, names in labels.frame.classes.items():
        targets = labels.frame.rows[head].to_numpy(np.int64)
        known = train[targets[train] >= 0]
        probs = _fit_and_predict(features[known], targets[known], features[scored], len(names))
        heads.append(HeadPrediction(head, tuple(names), targets[scored], probs))
    return heads


def _fit_and_predict(features: np.ndarray, targets: np.ndarray, scored: np.ndarray, count: int) -> np.ndarray:
    """Probabilities [N, count]; a class without training rows gets 0."""
    seen = np.unique(targets)
    probs = np.zeros((len(scored), count))
    if len(seen) < 2:
        probs[:, seen if len(seen) else slice(None)] = 1.0
        return probs / probs.sum(axis=1, keepdims=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", C=0.01, max_iter=2000))
    model.fit(features, targets)
    probs[:, seen] = model.predict_proba(scored)
    return probs


def _features(config: Config, labels: Labels, folder: Path) -> np.ndarray:
    cache = folder / f"{_key(config, labels)}.npz"
    if cache.exists():
        return np.load(cache)["features"]
    features = compute(config, labels)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features)
    return features


def _key(config: Config, labels: Labels) -> str:
    """A digest of what the features depend on: network, weights, evaluation view, images."""
    tree = config.to_dict()
    weights = config.arch.args.get("weights")
    file = weights["path"] if isinstance(weights, dict) else weights
    random = not (file or config.arch.args.get("pretrained"))
    images = [labels.frame.file(path) for path in labels.frame.rows["path"]]
    parts = [
        tree["arch"],
        sha256_of(Path(file)) if file else None,
        config.seed if random else None,
        {name: tree["views"][name] for name in ("size", "eval", "normalize")},
        [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in map(Path, images)],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@torch.no_grad()
def compute(config: Config, labels: Labels) -> np.ndarray:
    """Features [N, D] of every row's evaluation view."""
    seed_everything(config.seed)
    device = torch.device("cpu")
    data = FaceData(config, labels, open_run_images(config, labels, lambda _: None), {}, device)
    heads = {name: len(classes) for name, classes in data.classes.items()}
    model: Any = build_model(config, heads, load_weights=True).to(memory_format=torch.channels_last).eval()
    normalize = Normalize(*choose_normalization(config, model), device)
    batches = data.batches_of(np.arange(len(labels.frame.rows)))
    images = (normalize(to_device(batch, device)["eval"]["image"]) for batch in batches)
    return torch.cat([model.features(batch) for batch in images]).numpy()
