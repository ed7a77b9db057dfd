"""Which images show men: by the annotation, by a gender classifier, and where the two disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from base.scoring import Normalize
from data_loader.cache import Decoder
from data_loader.image_reader import ImageReader
from data_loader.readers.celeba_annotation import ANNOTATION, read_annotation
from data_loader.readers.celeba_hair import IMAGES
from data_loader.readers.image_folder import images_below
from data_loader.readers.table import few, locate, need_columns, normalised, read_table
from model.resnet18_file import load_resnet18
from model.weights import NORMALIZATIONS
from trainer.evaluate import Loaded, load_for_evaluation
from trainer.pictures import as_trained, head_predictions
from utils.checkpoint import DamagedCheckpoint, ForeignCheckpoint, load_checkpoint
from utils.errors import UserError, did_you_mean
from utils.files import atomic_write
from utils.run_folder import checkpoint_in

MALE = "male"
_SIZE = (224, 224)
_CHUNK = 256
_BATCH = 64

Classifier = Callable[[Sequence[Path]], np.ndarray]  # image files → [N] float64 probability of `male`
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Males:
    """table: file, male (1, 0), probability (of the classifier), attribute (1, 0, of the annotation); where a source is
    missing its column is blank."""

    table: pd.DataFrame

    def disagreements(self) -> pd.DataFrame:
        """The rows in which classifier and annotation differ, the surest classifier first."""
        both = self.table.dropna(subset=["probability", "attribute"])
        rows = both[both["male"] != both["attribute"]]
        return rows.iloc[np.argsort(-(rows["probability"] - rows["attribute"]).abs(), kind="stable")]


def images_of(root: Path) -> tuple[Path, list[str]]:
    """The folder that file names are relative to (CelebA-HQ-img where there is one, else `root`), and the names."""
    if not root.is_dir():
        raise UserError(f"--root: no folder '{root}' (seen from {Path.cwd()})")
    folder = root / IMAGES if (root / IMAGES).is_dir() else root
    names = images_below(folder)
    if not names:
        raise UserError(f"--root {root}: no images in it")
    return folder, sorted(names, key=lambda name: (int(stem) if (stem := Path(name).stem).isdecimal() else -1, name))


def find_males(
    root: Path,
    attribute: str,
    classifier: Classifier | None,
    threshold: float = 0.5,
    progress: Progress = lambda done, total: None,
) -> Males:
    """attribute: the annotation's column that says male, used where `root` has an annotation. The classifier decides
    where there is one (male from `threshold` on). Raises UserError if there is neither, and for images that are none.
    """
    if not 0 < threshold < 1:
        raise UserError(f"--threshold {threshold:g}: expected a number between 0 and 1")
    folder, files = images_of(root)
    table = pd.DataFrame({"file": files, "male": 0, "probability": np.nan, "attribute": pd.NA})
    if (root / ANNOTATION).is_file():
        annotated = read_annotation(root / ANNOTATION, files).column(attribute, files).astype(int)
        table["attribute"] = table["male"] = annotated
    elif classifier is None:
        raise UserError(f"--root {root}: it has no {ANNOTATION}; name a gender classifier with --checkpoint")
    if classifier is not None:
        parts = []
        for start in range(0, len(files), _CHUNK):
            parts.append(classifier([folder / name for name in files[start : start + _CHUNK]]))
            progress(min(start + _CHUNK, len(files)), len(files))
        table["probability"] = np.concatenate(parts).round(4)
        table["male"] = (table["probability"] >= threshold).astype(int)
    return Males(table)


def open_classifier(path: Path, head: str | None, classes: Sequence[str] | None, device: torch.device) -> Classifier:
    """A checkpoint of this project, or a state dict of torchvision's ResNet-18.

    classes: the outputs of the latter; None: female, male. head: of our checkpoint; None: the one that has `male` among
    its classes (`wear/male/<30` of a joint label counts).
    Raises UserError for any other file, and if no class is male.
    """
    path = checkpoint_in(path, best=True)
    if not path.is_file():
        raise UserError(f"--checkpoint {path}: no such file")
    try:
        load_checkpoint(path)
    except (DamagedCheckpoint, ForeignCheckpoint):
        return _resnet18(path, classes or ("female", MALE), device)
    if classes is not None:
        raise UserError(f"--classes: {path} knows its own classes; leave it out")
    return _ours(load_for_evaluation(path, device), head, device)


def _ours(loaded: Loaded, head: str | None, device: torch.device) -> Classifier:
    columns = {
        name: [i for i, cls in enumerate(classes) if MALE in cls.lower().split("/")]
        for name, classes in loaded.classes.items()
    }
    if head is not None and head not in columns:
        raise UserError(f"--head: {loaded.path} has no head '{head}'{did_you_mean(head, columns)}")
    fitting = [name for name, found in columns.items() if found and head in (None, name)]
    if not fitting:
        heads = "; ".join(f"{name}: {', '.join(classes[:6])}" for name, classes in loaded.classes.items())
        option = f"--checkpoint {loaded.path}" if head is None else f"--head {head}"
        raise UserError(f"{option}: no class is called '{MALE}' ({heads})")

    def classify(files: Sequence[Path]) -> np.ndarray:
        found = head_predictions(loaded, as_trained(loaded, files), len(files), device)
        heads = {of_head.name: of_head for of_head in found}
        return heads[fitting[0]].probs[:, columns[fitting[0]]].sum(axis=1)

    return classify


def _resnet18(path: Path, classes: Sequence[str], device: torch.device) -> Classifier:
    model = load_resnet18(path)
    outputs = int(model.get_classifier().out_features)  # type: ignore[operator, union-attr]
    if outputs != len(classes) or MALE not in classes:
        raise UserError(
            f"--classes {' '.join(classes)}: {path} has {outputs} outputs; name them in order, one of them {MALE}"
        )
    model.to(device)
    spec = NORMALIZATIONS["imagenet"]
    normalize = Normalize(spec.mean, spec.std, device)

    @torch.no_grad()
    def classify(files: Sequence[Path]) -> np.ndarray:
        images, found = Decoder(files, ImageReader(_SIZE)), []
        for start in range(0, len(files), _BATCH):
            pixels = np.stack([images[row] for row in range(start, min(start + _BATCH, len(files)))])
            found.append(model(normalize(torch.from_numpy(pixels).to(device))).double().softmax(dim=1).cpu())
        return torch.cat(found).numpy()[:, list(classes).index(MALE)]

    return classify


def with_hand_labels(males: pd.DataFrame, root: Path, label_frame: str) -> pd.DataFrame:
    """A label frame of CelebAHair with the columns of `males` added, so that filters can use them.

    Raises UserError if it has no column `file`, or names images that `males` has not.
    """
    file = locate(root, label_frame, "label_frame")
    table = read_table(file)
    need_columns(table, ["file"], file)
    table["file"] = normalised(table["file"]).str.replace(r"(\.jpg)?$", ".jpg", n=1, regex=True)
    absent = list(table["file"][~table["file"].isin(males["file"])])
    if absent:
        raise UserError(f"{file}: {few(absent, 'row')} without an image")
    kept = table.drop(columns=[name for name in males.columns if name != "file" and name in table.columns])
    return kept.merge(males, on="file", how="right", validate="many_to_one").fillna(dict.fromkeys(kept.columns, ""))


def write_males(out: Path, males: Males, table: pd.DataFrame) -> list[str]:
    """OUT, and beside it OUT's name with `_disagreements` where there are two sources; returns lines for the user."""
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, table.to_csv(index=False, lineterminator="\n"))
    found = males.table
    lines = [f"{out}: {int(found['male'].sum()):,} of {len(found):,} images are male"]
    both = int((found["probability"].notna() & found["attribute"].notna()).sum())
    if not both:
        return lines
    differ = males.disagreements()
    place = out.with_name(f"{out.stem}_disagreements.csv")
    atomic_write(place, differ.to_csv(index=False, lineterminator="\n"))
    lines.append(f"{place}: classifier and annotation disagree on {len(differ):,} of {both:,} images")
    if len(differ) > both / 2:
        lines.append(
            "note: they disagree on most images; if the classifier is a ResNet-18 of yours, are its outputs in another "
            "order (--classes)?"
        )
    return lines
