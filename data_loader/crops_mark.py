"""Whether pictures are face crops of `prepare.py crops`: a network trained on these is not one for whole pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data_loader.face_crops.table import TABLE


def are_crops(places: Iterable[Path]) -> bool:
    """Whether one of these folders, or one that it is in, has the crops' table: a data set may be a part of them."""
    folders = {folder for place in places for folder in (place.absolute(), *place.absolute().parents)}
    return any((folder / TABLE).is_file() for folder in folders)


def kind_of(folders: Iterable[Path]) -> bool | None:
    """Whether the data sets in these folders are face crops; None where some are."""
    found = {are_crops([folder]) for folder in folders}
    return found.pop() if len(found) == 1 else None


def crops_note(path: object, trained_on_crops: bool | None, places: Iterable[Path]) -> list[str]:
    """What to say where a model meets pictures of the other kind; trained_on_crops: None where it is not known."""
    now = are_crops(places)
    if trained_on_crops is None or trained_on_crops == now:
        return []
    here = "are face crops" if now else "are not"
    there = "was trained on face crops (prepare.py crops)" if trained_on_crops else "was trained on whole pictures"
    return [f"{path} {there}, these {here}; its answers may mean little"]
