"""Scoring and predicting with checkpoints; nothing but the checkpoint is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from base.base_dataset import Batch, to_device
from base.scoring import Normalize
from base.speed import lay_out
from data_loader.crops_mark import crops_note
from data_loader.data_sets import add_attributes
from data_loader.face_data import FaceData
from data_loader.prepare_labels import Labels, draw_split, read_labels
from data_loader.split import check_leakage
from report.evaluation import HeadPrediction
from report.slices import slice_columns
from report.writer import write_report
from trainer.build import build_model, open_run_images
from trainer.calibrate import calibrate, check_fit
from trainer.components import check_views
from trainer.ensemble import Ensemble
from trainer.explain import Explainer
from trainer.scored_rows import common_rows, known_ages, trained_on
from trainer.test_time_views import TestTimeView
from utils.checkpoint import load_checkpoint
from utils.config import Config, apply_overrides, config_from_dict, differences, is_about
from utils.errors import UserError
from utils.files import check_output
from utils.memory import keep_freed_memory
from utils.run_folder import checkpoint_in, run_folder_of

ANSWERING = ("arch", "views", "trainer.evaluation_prior")  # what an override changes the model's answers with
FOR_TRAINING = tuple(f"arch.args.{name}" for name in ("weights", "pretrained", "dropout", "freeze", "batch_norm"))


@dataclass
class Loaded:
    """A checkpoint's model, ready to evaluate."""

    path: Path
    config: Config
    model: torch.nn.Module
    classes: dict[str, tuple[str, ...]]
    normalization: list[list[float]]
    offsets: dict[str, torch.Tensor]
    data: dict[str, Any]
    run_dir: Path
    run: str
    step: int


def load_for_evaluation(
    path: Path,
    device: torch.device,
    config_file: Path | None = None,
    overrides: list[str] | None = None,
    calibrated: bool = False,
) -> Loaded:
    """The averaged weights where the run kept them.

    Raises UserError for a file that is no checkpoint and, if it is `calibrated`, for overrides that change its answers.
    """
    if device.type == "cpu":
        keep_freed_memory()
    path = checkpoint_in(path, best=True)
    state = load_checkpoint(path)
    stored = config_from_dict(json.loads(state["config"]), str(path))
    config = apply_overrides(stored, overrides or [], config_file)
    changed = [line for line in differences(stored, config) if is_about(line, ANSWERING)]
    if any(is_about(line, ["views"]) for line in changed):
        check_views(config)
    scaled = [line for line in changed if is_about(line, ["views.normalize"])]
    if scaled:
        raise UserError(f"{path}: was trained with its own views.normalize; leave out {', '.join(scaled)} (-s or -c)")
    if calibrated and changed:
        raise UserError(
            f"{path}: a calibration holds for the model as it was trained; not with {', '.join(changed)} (-s or -c)"
        )
    network = [line for line in changed if is_about(line, ["arch"]) and not is_about(line, FOR_TRAINING)]
    if network:
        raise UserError(f"{path}: holds another network; leave out {', '.join(network)} (-s or -c)")
    classes = {head: tuple(names) for head, names in state["classes"].items()}
    if not classes:
        raise UserError(f"{path}: holds a backbone trained without labels and no classifier; see arch.args.weights")
    model = build_model(config, {head: len(names) for head, names in classes.items()}, load_weights=False)
    model.load_state_dict(state["ema"]["model"] if state["ema"] else state["model"])
    log_prior = state.get("log_prior") or {head: [0.0] * len(names) for head, names in classes.items()}
    strength = config.trainer.evaluation_prior
    offsets = {head: strength * torch.tensor(p, dtype=torch.float64, device=device) for head, p in log_prior.items()}
    run_dir = run_folder_of(path, Path(config.trainer.save_dir), state["run"]) or path.parent
    lay_out(model.to(device), torch.channels_last)
    known = (state["data"], run_dir, state["run"], state["step"])
    return Loaded(path, config, model.eval(), classes, state["normalization"], offsets, *known)


def load_ensemble(
    ensemble: Ensemble, device: torch.device, config_file: Path | None, overrides: list[str], fits: bool = False
) -> Iterator[Loaded]:
    """Its checkpoints, one after the other; as in `load_for_evaluation` where the answer is calibrated, or `fits`."""
    for path in ensemble.paths:
        yield load_for_evaluation(path, device, config_file, overrides, fits or ensemble.fitted is not None)


def labels_for_scoring(loaded: Loaded, split: str = "valid", tell: Callable[[str], None] = print) -> Labels:
    """Today's data with all its labels, and the split that the config draws from it.

    Where that can only differ from the checkpoint's own (there are other images), is not needed (`split` "all"), cannot
    be drawn, or came from a file, which may be gone, it is the checkpoint's: a row that it does not know goes with its
    group, else it is on no side ('').
    """
    config, known = loaded.config, loaded.data
    frame = read_labels(config)
    for note in crops_note(loaded.path, known.get("crops"), frame.folders.values()):
        tell(note)
    if split != "all" and config.split.from_file is None and set(frame.rows["path"]) == set(known["path"]):
        try:
            drawn, _ = draw_split(config, frame)
            check_leakage(frame, drawn)
            return Labels(frame, drawn)
        except UserError as error:
            tell(f"the split of {loaded.path} is the one that it was trained on; today none can be drawn: {error}")
    of_group = frame.rows["group"].map(dict(zip(known["group"], known["split"])))
    of_path = frame.rows["path"].map(dict(zip(known["path"], known["split"])))
    return Labels(frame, of_path.fillna(of_group).fillna("").rename("split"))


class Rows(Protocol):
    """Rows of images as batches with the stream `eval`."""

    device: torch.device

    def batches_of(self, rows: np.ndarray) -> Iterable[Batch]: ...


@torch.inference_mode()
def predict(loaded: Loaded, data: Rows, rows: np.ndarray, views: Sequence[TestTimeView] = ()) -> dict[str, np.ndarray]:
    """Class probabilities per head, float64 [N, C], in the order of `rows`: the mean over the image and its `views`."""
    device = data.device
    mean, std = loaded.normalization
    normalize = Normalize(mean, std, device)
    probs: dict[str, list[torch.Tensor]] = {head: [] for head in loaded.classes}
    for batch in data.batches_of(rows):
        images = normalize(to_device(batch, device)["eval"]["image"])
        logits = [loaded.model(images), *(loaded.model(view(images)) for view in views)]
        for head in loaded.classes:
            of_views = [(view[head].double() + loaded.offsets[head]).softmax(dim=1) for view in logits]
            probs[head].append(torch.stack(of_views).mean(dim=0).cpu())
    return {head: torch.cat(parts).numpy() for head, parts in probs.items()}


def test_checkpoints(
    ensemble: Ensemble,
    device: torch.device,
    config_file: Path | None,
    overrides: list[str],
    split: str,
    out: Path | None,
    near_years: int | None = None,
    fit: Sequence[str] = (),
    explain: bool = False,
    by: Sequence[str] = (),
) -> tuple[dict[str, Any], Path, list[str]]:
    """Score checkpoints on a split and write the report; returns metrics, the report's folder and notes.

    fit: what to fit for later use (`temperature`, `thresholds`); the scores are those without it. explain: with
    pictures of what speaks for the predictions. by: columns, for each value of which scores are given apart.
    """
    check_fit(fit, ensemble, split)
    if explain and len(ensemble.paths) > 1:
        raise UserError(f"--explain: is for one checkpoint, not for {len(ensemble.paths)}; leave it out, or test one")
    notes: list[str] = []
    models = [
        (loaded, _with_heads(loaded, labels_for_scoring(loaded, split, notes.append)))
        for loaded in load_ensemble(ensemble, device, config_file, overrides, bool(fit))
    ]
    rows, said = common_rows(models, split)
    notes += said
    if split == "valid" and any(_was_chosen_on_valid(loaded) for loaded, _ in models):
        notes.append(
            "the epoch that is scored was chosen on these images (trainer.monitor), so the scores flatter a little; a "
            "test split (split.test) is for scores that nothing was chosen by"
        )
    ages = known_ages(models, rows, near_years)
    frame = models[0][1].frame
    heads_of_all = {head for loaded, _ in models for head in loaded.classes}
    if heads_of_all <= set(by):
        raise UserError(f"--by {min(heads_of_all)}: is all that is predicted, so nothing is left to score apart")
    slices = slice_columns(frame.rows.iloc[rows[0]], frame.classes, by)
    if out is None:
        out = models[0][0].run_dir / "report"
        check_output(out, "--out", folder=True)
    explainer, predictions = None, []
    for (loaded, labels), chosen in zip(models, rows):
        images = open_run_images(loaded.config, labels, notes.append)
        data = FaceData(loaded.config, labels, images, {}, device)
        explainer = _explainer(loaded, data, chosen) if explain else None
        predictions.append(_predict_rows(loaded, labels, data, chosen, ensemble))
    first, labels = models[0]
    table = labels.frame.rows.iloc[rows[0]][["path", "group"]].assign(split=labels.split.iloc[rows[0]], labeled=True)
    groups = table.set_index("path")["group"]
    for other, _ in models[1:]:
        table.loc[trained_on(other.data, groups), "split"] = "train"
    heads = ensemble.answer(predictions)
    calibration, cross_fitted, said = calibrate(ensemble, heads, table["group"].tolist(), fit, split, out)
    notes += said
    metrics = write_report(
        out,
        table.reset_index(drop=True),
        heads,
        split=split,
        checkpoints=[str(loaded.path) for loaded, _ in models],
        root=labels.frame.roots or labels.frame.root,
        title=" + ".join(dict.fromkeys(loaded.config.name for loaded, _ in models)),
        about=first.config.about if len(models) == 1 else "",
        notes=notes,
        metrics_csv=first.run_dir / "metrics.csv" if len(models) == 1 else None,
        ages=ages,
        calibration=calibration,
        cross_fitted=cross_fitted,
        explain=explainer,
        by=slices,
    )
    return metrics, out, notes


def _was_chosen_on_valid(loaded: Loaded) -> bool:
    return " valid/" in loaded.config.trainer.monitor and not loaded.path.name.startswith("last")


def _with_heads(loaded: Loaded, labels: Labels) -> Labels:
    """The labels with each of the model's heads: those that the data does not know are missing in every row.

    Raises UserError if it knows none, or one by other classes.
    """
    known = labels.frame.classes
    for head, names in loaded.classes.items():
        if known.get(head, names) != names or not known.keys() & loaded.classes.keys():
            raise UserError(
                f"{loaded.path}: the model's head '{head}' has the classes {', '.join(names)}, the data has "
                f"{', '.join(known.get(head, ())) or 'no such attribute'}"
            )
    return replace(labels, frame=add_attributes(labels.frame, loaded.classes))


def _explainer(loaded: Loaded, data: FaceData, rows: np.ndarray) -> Explainer:
    mean, std = loaded.normalization
    explainer = Explainer(loaded.model, Normalize(mean, std, data.device), data, rows)
    first = np.arange(min(len(rows), explainer.at_once))
    for head in loaded.classes:  # what cannot be explained, or does not fit, is said before the work
        explainer(head, first, np.zeros(len(first), np.int64))
    return explainer


def _predict_rows(
    loaded: Loaded, labels: Labels, data: FaceData, rows: np.ndarray, ensemble: Ensemble
) -> list[HeadPrediction]:
    """The heads of one model on rows of its label frame, each image through the model's own evaluation view."""
    probs = predict(loaded, data, rows, ensemble.views)
    table = labels.frame.rows
    return [
        HeadPrediction(head, names, table[head].to_numpy(np.int64)[rows], probs[head])
        for head, names in loaded.classes.items()
    ]
