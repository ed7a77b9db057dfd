"""Scoring and predicting with checkpoints; nothing but the checkpoint is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from base.base_dataset import Batch, to_device
from base.scoring import Normalize
from data_loader.face_data import FaceData
from data_loader.prepare_labels import Labels, prepare_labels, read_labels
from data_loader.split import split_digest
from report.evaluation import HeadPrediction
from report.vote import combine
from report.writer import write_report
from trainer.build import build_model, open_run_images
from utils.checkpoint import load_checkpoint
from utils.config import Config, apply_overrides, config_from_dict
from utils.errors import UserError
from utils.memory import keep_freed_memory
from utils.run_folder import checkpoint_in


@dataclass
class Loaded:
    """A checkpoint's model, ready to evaluate."""

    path: Path
    config: Config
    model: torch.nn.Module
    classes: dict[str, tuple[str, ...]]
    normalization: list[list[float]]
    data: dict[str, Any]
    run_dir: Path


def load_for_evaluation(
    path: Path, device: torch.device, config_file: Path | None = None, overrides: list[str] | None = None
) -> Loaded:
    """The averaged weights where the run kept them. Raises UserError for a file that is no checkpoint."""
    if device.type == "cpu":
        keep_freed_memory()
    path = checkpoint_in(path)
    state = load_checkpoint(path)
    config = config_from_dict(json.loads(state["config"]), str(path))
    config = apply_overrides(config, overrides or [], config_file)
    classes = {head: tuple(names) for head, names in state["classes"].items()}
    model = build_model(config, {head: len(names) for head, names in classes.items()}, load_weights=False)
    model.load_state_dict(state["ema"]["model"] if state["ema"] else state["model"])
    run_dir = Path(config.trainer.save_dir) / state["run"]
    if not run_dir.is_dir():
        run_dir = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return Loaded(path, config, model.to(device).eval(), classes, state["normalization"], state["data"], run_dir)


def labels_for_scoring(loaded: Loaded) -> Labels:
    """Today's data with all its labels and the split that the config draws; where the config took it from a file,
    which may be gone, the checkpoint's own: a row that it does not know goes with its group, else to train."""
    if loaded.config.split.from_file is None:
        return prepare_labels(loaded.config, hide=False)
    frame, known = read_labels(loaded.config), loaded.data
    of_group = frame.rows["group"].map(dict(zip(known["group"], known["split"])))
    of_path = frame.rows["path"].map(dict(zip(known["path"], known["split"])))
    return Labels(frame, of_path.fillna(of_group).fillna("train").rename("split"))


def choose_rows(labels: Labels, known: dict[str, Any], split: str) -> tuple[np.ndarray, list[str]]:
    """Row numbers of `split` and what is to be said about data that changed since training.

    A row whose image or group was trained on is never in `valid` or `test`; a row that the checkpoint does not know
    is in none of its splits.
    """
    frame = labels.frame.rows
    everything = np.arange(len(frame))
    if split == "all":
        return everything, []
    if split_digest(labels.frame, labels.split) == known["digest"]:
        return everything[(labels.split == split).to_numpy()], []
    stored = dict(zip(known["path"], known["split"]))
    trained_groups = {g for g, s in zip(known["group"], known["split"]) if s == "train"}
    of_row = frame["path"].map(stored)
    chosen = (of_row == split).to_numpy()
    if split != "train":
        chosen &= ~frame["group"].isin(trained_groups).to_numpy()
    new, gone = int(of_row.isna().sum()), len(set(stored) - set(frame["path"]))
    note = (
        f"the data or its split has changed since this model was trained ({new:,} new images, {gone:,} gone); scored "
        f"are the {int(chosen.sum()):,} images that belonged to '{split}' then; --split all scores every labeled image"
    )
    return everything[chosen], [note]


class Rows(Protocol):
    """Rows of images as batches with the stream `eval`."""

    device: torch.device

    def batches_of(self, rows: np.ndarray) -> Iterable[Batch]: ...


@torch.no_grad()
def predict(loaded: Loaded, data: Rows, rows: np.ndarray, flip: bool = False) -> dict[str, np.ndarray]:
    """Class probabilities per head, float64 [N, C], in the order of `rows`; `flip` averages with the mirrored image."""
    device = data.device
    mean, std = loaded.normalization
    normalize = Normalize(mean, std, device)
    probs: dict[str, list[torch.Tensor]] = {head: [] for head in loaded.classes}
    for batch in data.batches_of(rows):
        images = normalize(to_device(batch, device)["eval"]["image"])
        logits = [loaded.model(images)] + ([loaded.model(images.flip(3))] if flip else [])
        for head in loaded.classes:
            of_views = [view[head].double().softmax(dim=1) for view in logits]
            probs[head].append(torch.stack(of_views).mean(dim=0).cpu())
    return {head: torch.cat(parts).numpy() for head, parts in probs.items()}


def test_checkpoints(
    paths: list[Path],
    device: torch.device,
    config_file: Path | None,
    overrides: list[str],
    split: str,
    vote: str,
    flip: bool,
    out: Path | None,
) -> tuple[dict[str, Any], Path, list[str]]:
    """Score checkpoints on a split and write the report; returns metrics, the report's folder and notes."""
    predictions, notes, rows, first, frame = [], [], None, None, None
    for path in paths:
        loaded = load_for_evaluation(path, device, config_file, overrides)
        labels = labels_for_scoring(loaded)
        for head, names in loaded.classes.items():
            if labels.frame.classes.get(head) != names:
                raise UserError(
                    f"{path}: the model's head '{head}' has the classes {', '.join(names)}, the data has "
                    f"{', '.join(labels.frame.classes.get(head, ())) or 'no such attribute'}"
                )
        chosen, said = choose_rows(labels, loaded.data, split)
        labeled = labels.frame.rows[list(loaded.classes)].max(axis=1).to_numpy() >= 0
        chosen = chosen[labeled[chosen]]
        if rows is None or first is None:
            rows, first, frame = chosen, loaded, labels
        elif list(labels.frame.rows["path"].iloc[chosen]) != list(frame.frame.rows["path"].iloc[rows]):  # type: ignore[union-attr]
            raise UserError(f"{path}: its '{split}' images are not those of {paths[0]}; vote on models of one split")
        if len(chosen) == 0:
            raise UserError(f"{path}: there is no labeled image in the split '{split}'")
        notes += [note for note in said if note not in notes]
        images = open_run_images(loaded.config, labels, notes.append)
        data = FaceData(loaded.config, labels, images, (), device)
        probs = predict(loaded, data, chosen, flip)
        table = labels.frame.rows
        predictions.append(
            [
                HeadPrediction(head, names, table[head].to_numpy(np.int64)[chosen], probs[head])
                for head, names in loaded.classes.items()
            ]
        )
    assert rows is not None and first is not None and frame is not None
    out = out or first.run_dir / "report"
    table = frame.frame.rows.iloc[rows][["path", "group"]].assign(split=frame.split.iloc[rows], labeled=True)
    metrics = write_report(
        out,
        table.reset_index(drop=True),
        combine(predictions, vote),
        split=split,
        checkpoints=[str(path) for path in paths],
        root=frame.frame.root,
        title=first.config.name,
        about=first.config.about,
        notes=notes,
        metrics_csv=first.run_dir / "metrics.csv" if (first.run_dir / "metrics.csv").exists() else None,
    )
    return metrics, out, notes
