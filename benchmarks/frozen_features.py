"""What a user gets in seconds: logistic regression on the features of the backbone as it was downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from base.base_dataset import to_device
from base.scoring import Normalize
from data_loader.face_data import FaceData
from data_loader.prepare_labels import prepare_labels
from trainer.build import build_model, choose_normalization, open_run_images
from utils.config import Config
from utils.random_state import seed_everything


def logistic_regression(config: Config, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fit on the labeled training rows (balanced class weights); validation labels int [N] and probabilities [N, C].

    cache: .npz of all rows' features [N, D]; the backbone does not depend on the seed as long as it has weights.
    Raises ValueError for a config with several heads.
    """
    labels = prepare_labels(config)
    (head,) = labels.frame.classes
    features = np.load(cache)["features"] if cache.exists() else None
    if features is None or len(features) != len(labels.frame.rows):
        features = compute(config)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, features=features)
    targets = labels.frame.rows[head].to_numpy(np.int64)
    train, valid = (np.asarray(labels.rows(split)) for split in ("train", "valid"))
    train, valid = train[targets[train] >= 0], valid[targets[valid] >= 0]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", C=0.01, max_iter=2000))
    model.fit(features[train], targets[train])
    return targets[valid], model.predict_proba(features[valid])


@torch.no_grad()
def compute(config: Config) -> np.ndarray:
    """Features [N, D] of every row's evaluation view."""
    seed_everything(config.seed)
    labels = prepare_labels(config)
    device = torch.device("cpu")
    data = FaceData(config, labels, open_run_images(config, labels, print), {}, device)
    heads = {name: len(classes) for name, classes in data.classes.items()}
    model = build_model(config, heads, load_weights=True).to(memory_format=torch.channels_last).eval()
    normalize = Normalize(*choose_normalization(config, model), device)
    batches = data.batches_of(np.arange(len(labels.frame.rows)))
    return torch.cat([model.features(normalize(to_device(b, device)["eval"]["image"])) for b in batches]).numpy()
