"""The attribute annotation of CelebAMask-HQ: parsed, and checked against the images and the part masks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_loader.readers.table import few
from utils.errors import UserError, did_you_mean

ANNOTATION = "CelebAMask-HQ-attribute-anno.txt"
MASKS = "CelebAMask-HQ-mask-anno"
OFF_BY_ONE = "two copies of CelebA-HQ circulate, the official one numbered 0..29999 and one numbered 1..30000"
_PROBES = {"Eyeglasses": "_eye_g.png", "Wearing_Hat": "_hat.png"}  # attribute → the mask that exists only with it


@dataclass(frozen=True)
class Annotation:
    """attributes: the forty names; cells: file name → one '1' or '-1' per attribute."""

    path: Path
    attributes: tuple[str, ...]
    cells: dict[str, list[str]]

    def column(self, attribute: str, files: list[str]) -> np.ndarray:
        """[N] bool: which of `files` have the attribute. Raises UserError for an unknown attribute."""
        if attribute not in self.attributes:
            raise UserError(f"{self.path}: no attribute '{attribute}'{did_you_mean(attribute, self.attributes)}")
        index = self.attributes.index(attribute)
        values = [self.cells[name][index] for name in files]
        if not set(values) <= {"1", "-1"}:
            raise UserError(
                f"{self.path}: attribute {attribute} has the values {sorted(set(values))}, expected 1 and -1"
            )
        return np.array(values) == "1"


def read_annotation(path: Path, files: list[str]) -> Annotation:
    """The annotation of the images `files`. Raises UserError if its count, its rows or its file names do not fit."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    attributes = tuple(lines[1].split()) if len(lines) > 1 else ()
    rows = [
        line.split() for line in lines[2:] if line.strip()
    ]  # two spaces follow the name: sep=' ' would see a column
    if not attributes or not lines[0].strip().isdigit():
        raise UserError(f"{path}: expected the number of images in line 1 and the attribute names in line 2")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(attributes) + 1:
            raise UserError(
                f"{path}: row {number} ({row[0]}) has {len(row) - 1} values for {len(attributes)} attributes"
            )
    if int(lines[0]) != len(rows):
        raise UserError(f"{path}: line 1 says {int(lines[0]):,} images, but {len(rows):,} rows follow")
    cells = {row[0]: row[1:] for row in rows}
    if len(cells) != len(rows):
        raise UserError(f"{path}: {len(rows) - len(cells):,} file names are listed more than once")
    _check_names(path, list(cells), files)
    return Annotation(path, attributes, cells)


def _check_names(path: Path, annotated: list[str], files: list[str]) -> None:
    have, listed = set(files), set(annotated)
    if have == listed:
        return
    rows, images = _numbers(annotated), _numbers(files)
    shift = min(images) - min(rows) if rows and images else 0
    if abs(shift) == 1 and {number + shift for number in rows} == images:
        raise UserError(
            f"{path}: its names are the image names shifted by one: it lists {min(rows)}.jpg … {max(rows)}.jpg, "
            f"the images are {min(images)}.jpg … {max(images)}.jpg. Mind that {OFF_BY_ONE}; "
            "take images and annotation from the same copy"
        )
    parts = []
    if rowless := [name for name in files if name not in listed]:
        parts.append(f"{few(rowless, 'image')} without a row")
    if fileless := [name for name in annotated if name not in have]:
        parts.append(f"{few(fileless, 'row')} without an image")
    raise UserError(f"{path}: annotation and images do not agree: {'; '.join(parts)}. (Mind that {OFF_BY_ONE}.)")


def _numbers(files: list[str]) -> set[int]:
    """The images' numbers; empty if a name is not a number."""
    stems = [name.rpartition(".")[0] for name in files]
    return {int(stem) for stem in stems} if all(stem.isdecimal() for stem in stems) else set()


def probe_masks(folder: Path, annotation: Annotation, files: list[str]) -> str:
    """A note on how well masks and annotation agree: glasses and hats have masks of their own.

    The overlap is intersection over union of 'has the attribute' and 'has the mask'. Raises UserError if it is clearly
    better with the numbers shifted by one.
    """
    images = _numbers(files)
    masks: dict[str, set[int]] = {suffix: set() for suffix in _PROBES.values()}
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        for name in os.listdir(part):
            for suffix, found in masks.items():
                if name.endswith(suffix) and name[: -len(suffix)].isdecimal():
                    found.add(int(name[: -len(suffix)]))
    pairs = [
        ({int(Path(f).stem) for f, has in zip(files, annotation.column(attribute, files)) if has}, masks[suffix])
        for attribute, suffix in _PROBES.items()
        if images and attribute in annotation.attributes and masks[suffix]
    ]
    if not any(shown for shown, _ in pairs):
        return f"{folder.name}: no masks of glasses or hats to compare with the annotation"

    overlap = {}
    for shift in (-1, 0, 1):
        moved = [(shown, {n - shift for n in found} & images) for shown, found in pairs]
        union = sum(len(shown | found) for shown, found in moved)
        overlap[shift] = sum(len(shown & found) for shown, found in moved) / union
    best = max(overlap, key=lambda shift: overlap[shift])
    count = sum(len(shown) for shown, _ in pairs)
    if best and count >= 10 and overlap[best] > 2 * overlap[0] and overlap[best] - overlap[0] > 0.2:
        raise UserError(
            f"{folder}: masks and annotation are numbered differently: glasses and hats agree to {overlap[best]:.0%} "
            f"when mask N is compared with {annotation.path.name} row N{-best:+d}, to {overlap[0]:.0%} as they are. "
            f"Mind that {OFF_BY_ONE}; take masks, images and annotation from the same copy"
        )
    return f"{folder.name}: glasses and hats agree with the annotation to {overlap[0]:.0%} ({count:,} images)"
