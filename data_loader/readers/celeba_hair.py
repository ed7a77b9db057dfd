"""The CelebAMask-HQ layout, labeled by a hand-made table or by one of its forty attributes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from data_loader.joint import GENDER
from data_loader.label_frame import LabelFrame
from data_loader.readers.celeba_annotation import (
    ANNOTATION,
    MASKS,
    OFF_BY_ONE,
    Annotation,
    probe_masks,
    read_annotation,
)
from data_loader.readers.table import (
    LEFT_OUT,
    class_names,
    existing_root,
    few,
    indices,
    locate,
    need_columns,
    normalised,
    raw_columns,
    read_table,
    without_repeats,
)
from utils.errors import UserError

IMAGES = "CelebA-HQ-img"
MALE = "Male"
IDENTITY = "identity_CelebA.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
HAND_LABEL = "forehead"
# The same photo twice in the official numbering (CelebAMask-HQ issue 84): N and N + 1.
_TWINS = (234, 3329, 5162, 6770, 7384, 7561, 12444, 12885, 13825, 15506, 19199, 20134, 24646)
_OFFICIAL_COUNT = 30_000


def CelebAHair(
    root: str,
    label_frame: str | None = None,
    attribute: str | list[str] | None = None,
    gender: Literal["male", "female"] | None = None,
    hand_labels: list[str] | None = None,
) -> LabelFrame:
    """Reads `root/CelebA-HQ-img/*.jpg` with labels from a table or from the annotation.

    label_frame: a CSV (relative to `root` or the working directory) with columns `file` and `forehead`, or those that
    `hand_labels` names, an attribute each; a blank label is unlabeled, '-1' leaves the image out (where it is in all of
    them), an image without a row is unlabeled; other columns are kept. attribute: a
    name of the annotation such as `Bangs`, which gives attribute `bangs` with classes no_bangs, bangs; `Male` gives
    `gender` with classes male, female, as other readers have it. A list gives several, also beside a table. gender:
    keep only these, by the annotation. With an annotation there is a raw column `gender`. A group is a person where
    the identity and mapping files are present, else an image (or a pair of known duplicates).
    Raises UserError where names, numbers or labels of images, annotation, masks and table do not fit together.
    """
    _check_arguments(label_frame, attribute, gender, hand_labels)
    annotated = [attribute] if isinstance(attribute, str) else attribute or []
    folder = existing_root(root)
    files = _image_files(folder)
    annotation, notes = _annotation(folder, files, needed=gender is not None or bool(annotated))
    rows = pd.DataFrame({"path": [f"{IMAGES}/{name}" for name in files], "file": files})
    rows["group"], group_notes = _groups(folder, files)

    labels: dict[str, tuple[str, ...]] = {}
    by_hand = (hand_labels or [HAND_LABEL]) if label_frame is not None else []
    if label_frame is not None:
        place = locate(folder, label_frame, "label_frame")
        table, table_notes = _hand_labels(place, files, by_hand, [_annotated(a)[0] for a in annotated])
        rows = rows.merge(table, on="file", how="left", validate="one_to_one")
        rows[by_hand] = rows[by_hand].fillna("")
        labels |= dict.fromkeys(by_hand, ())
        notes += table_notes
    if annotation is not None:
        rows["gender"] = np.where(annotation.column(MALE, files), *GENDER)
        for name in annotated:
            head, names = _annotated(name)
            rows[head] = np.where(annotation.column(name, files), *(names if name == MALE else names[::-1]))
            labels[head] = names

    rows, kept_notes = _kept(rows, gender, by_hand)
    for column in by_hand:
        labels[column] = class_names(rows[column])
        if not labels[column]:
            what = "a label" if len(by_hand) == 1 else f"a label in the column '{column}'"
            raise UserError(f"{label_frame}: none of the {len(rows):,} images that are kept has {what}")
    heads = {name: indices(rows[name], names) for name, names in labels.items()}
    raw = rows.drop(columns=["path", "file", "group", *labels])
    table = rows[["path", "group"]].assign(**heads).join(raw)
    frame = LabelFrame(
        table, labels, folder, (f"CelebAHair {folder}: {len(files):,} images", *notes, *group_notes, *kept_notes)
    )
    for name in labels:
        frame = frame.note(frame.describe(name))
    return frame


def _check_arguments(
    label_frame: str | None, attribute: str | list[str] | None, gender: str | None, hand_labels: list[str] | None
) -> None:
    if (label_frame is None) == (attribute is None) and not (label_frame and isinstance(attribute, list)):
        raise UserError(
            "dataset.args: CelebAHair needs exactly one of 'label_frame' (a table) and 'attribute' (e.g. Bangs); "
            'to learn both, give a list of attributes, such as ["Male"], beside the table'
        )
    if hand_labels is not None:
        taken = {"path", "group", "file", "split", "gender"} & set(hand_labels)
        if label_frame is None or not hand_labels or len(set(hand_labels)) < len(hand_labels) or taken:
            raise UserError(
                f"dataset.args.hand_labels: expected different label columns of 'label_frame', got {hand_labels}"
                + (f"; '{min(taken)}' is none" if taken else "")
            )
    if gender not in (None, *GENDER):
        raise UserError(f"dataset.args.gender: expected male or female, got '{gender}'")
    if isinstance(attribute, list):
        if not attribute or len(set(attribute)) < len(attribute):
            raise UserError(f"dataset.args.attribute: expected different names of the annotation, got {attribute}")
        if MALE in attribute and gender is not None:
            raise UserError(
                f"dataset.args.attribute: '{MALE}' has one class only where gender is '{gender}'; leave one out"
            )


def _annotated(name: str) -> tuple[str, tuple[str, ...]]:
    """The attribute that an annotated one becomes, and its classes."""
    return ("gender", GENDER) if name == MALE else (name.lower(), (f"no_{name.lower()}", name.lower()))


def _image_files(folder: Path) -> list[str]:
    images = folder / IMAGES
    if not images.is_dir():
        inner = next((f"; did you mean '{p.parent}'?" for p in sorted(folder.glob(f"*/{IMAGES}"))), "")
        raise UserError(f"dataset.args.root: no folder {IMAGES} in '{folder}'{inner}")
    files = [name for name in os.listdir(images) if name.endswith(".jpg") and not name.startswith("._")]
    if not files:
        raise UserError(f"dataset.args.root: no .jpg images in '{images}'")
    return sorted(files, key=lambda name: (int(name[:-4]) if name[:-4].isdecimal() else -1, name))


def _annotation(folder: Path, files: list[str], needed: bool) -> tuple[Annotation | None, list[str]]:
    path = folder / ANNOTATION
    if not path.is_file():
        if needed:
            raise UserError(f"dataset.args: 'gender' and 'attribute' need {ANNOTATION}, which is not in '{folder}'")
        return None, []
    annotation = read_annotation(path, files)
    masks = folder / MASKS
    return annotation, [probe_masks(masks, annotation, files)] if masks.is_dir() else []


def _hand_labels(path: Path, files: list[str], columns: list[str], taken: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table with its columns of labels and its raw columns, one row per file."""
    table = read_table(path)
    need_columns(table, ["file", *columns], path)
    if set(columns) & set(taken):
        both = min(set(columns) & set(taken))
        raise UserError(f"{path}: '{both}' is called like an annotated attribute; rename the column")
    table["file"] = normalised(table["file"]).str.replace(r"(\.jpg)?$", ".jpg", n=1, regex=True)
    for column in columns:
        table[column] = normalised(table[column])
    table, notes = without_repeats(table, "file", columns, path)
    absent = list(table["file"][~table["file"].isin(files)])
    if absent:
        raise UserError(f"{path}: {few(absent, 'row')} without an image in {IMAGES} (mind that {OFF_BY_ONE})")
    raw = raw_columns(table.drop(columns=["file", *columns]), ["path", "group", "gender", *columns, *taken])
    rowless = len(files) - len(table)
    notes.append(f"{path.name}: {len(table):,} rows; {rowless:,} images without a row are unlabeled")
    return pd.concat([table[["file", *columns]], raw], axis=1), notes


def _kept(rows: pd.DataFrame, gender: str | None, by_hand: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The rows without those of the other gender and those left out in all columns of labels, and what to say about it.
    Left out in some columns only, a row is not labeled there."""
    notes = []
    if gender is not None:
        keep = rows["gender"] == gender
        notes.append(f"gender {gender}: {int(keep.sum()):,} of {len(rows):,} images kept")
        rows = rows[keep]
    marked = rows[by_hand] == LEFT_OUT
    left_out = marked.all(axis=1) if by_hand else pd.Series(False, index=rows.index)
    rows = rows.assign(**{column: rows[column].mask(marked[column] & ~left_out, "") for column in by_hand})
    if left_out.any():
        notes.append(f"left out (label {LEFT_OUT}): {int(left_out.sum()):,} images")
    rows = rows[~left_out]
    if not len(rows):
        raise UserError(f"dataset.args: no image is left ({'; '.join(notes)})")
    return rows.reset_index(drop=True), notes


def _groups(folder: Path, files: list[str]) -> tuple[list[str], list[str]]:
    """Who may not be split, per file, and notes."""
    groups = {name: f"{IMAGES}/{name}" for name in files}
    notes = []
    if (folder / IDENTITY).is_file() and (folder / MAPPING).is_file():
        groups = _identities(folder, files)
        notes.append(f"group: {len(set(groups.values())):,} people by {IDENTITY}")
    elif (folder / IDENTITY).is_file():
        notes.append(f"{IDENTITY} is not used: it needs {MAPPING}")
    if len(files) == _OFFICIAL_COUNT and files[0] == "0.jpg" and files[-1] == f"{_OFFICIAL_COUNT - 1}.jpg":
        for number in _TWINS:
            joined, other = groups[f"{number}.jpg"], groups[f"{number + 1}.jpg"]
            if joined != other:
                groups.update({name: joined for name, group in groups.items() if group == other})
        notes.append(f"group: {len(_TWINS)} known pairs of duplicates stay together")
    return [groups[name] for name in files], notes


def _identities(folder: Path, files: list[str]) -> dict[str, str]:
    """File → person, over the original CelebA names. Raises UserError for an image without one."""
    people = dict(line.split()[:2] for line in (folder / IDENTITY).read_text().splitlines() if len(line.split()) >= 2)
    rows = (line.split() for line in (folder / MAPPING).read_text().splitlines())
    original = {f"{row[0]}.jpg": row[2] for row in rows if len(row) >= 3 and re.fullmatch(r"\d+", row[0])}
    unknown = [name for name in files if original.get(name) not in people]
    if unknown:
        raise UserError(f"{folder / MAPPING}: {few(unknown, 'image')} without a person (mind that {OFF_BY_ONE})")
    return {name: f"person {people[original[name]]}" for name in files}
