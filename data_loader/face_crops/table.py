"""crops.csv: what was found in each picture, and from what its crop was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_loader.face_crops.detector import Face
from data_loader.readers.table import need_columns, read_table
from utils.errors import UserError
from utils.files import atomic_write

TABLE = "crops.csv"
NO_FACE, IMPLAUSIBLE, SIZE, UNREADABLE = "no face found", "no plausible face", "unusual size", "unreadable"
_BOX = ("x", "y", "width", "height")
_POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
_LANDMARKS = tuple(f"{point}_{axis}" for point in _POINTS for axis in "xy")
_NUMBERS = ("faces", "source_height", "source_width", "source_bytes", "source_mtime_ns", "crop_bytes")
COLUMNS = ("path", "found", "fallback", "score", *_BOX, *_LANDMARKS, *_NUMBERS, "source_sha256", "settings")


@dataclass(frozen=True)
class Row:
    """fallback: why the crop is a centre crop ('' = it is the face). face: the plausible one; with SIZE it is not used.
    faces: how many the detector returned. source_…, crop_…: of the two files; crop_bytes 0 = there is no crop."""

    path: str
    fallback: str
    face: Face | None
    faces: int
    source_height: int
    source_width: int
    source_bytes: int
    source_mtime_ns: int
    crop_bytes: int
    source_sha256: str
    settings: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.source_height, self.source_width

    def cells(self) -> list[str]:
        blank = [""] * (1 + len(_BOX) + len(_LANDMARKS))
        face = [repr(n) for n in (self.face.score, *self.face.box, *self.face.landmarks)] if self.face else blank
        numbers = [str(getattr(self, name)) for name in _NUMBERS]
        found = "0" if self.fallback else "1"
        return [self.path, found, self.fallback, *face, *numbers, self.source_sha256, self.settings]


def write_rows(out: Path, rows: Iterable[Row]) -> None:
    table = pd.DataFrame([row.cells() for row in rows], columns=list(COLUMNS))
    atomic_write(out / TABLE, table.to_csv(index=False, lineterminator="\n"))


def read_rows(out: Path) -> dict[str, Row]:
    """The rows by path; none if there is no table. Raises UserError if it is not such a table."""
    file = out / TABLE
    if not file.exists():
        return {}
    table = read_table(file)
    need_columns(table, COLUMNS, file)
    try:
        return {cells["path"]: _row(cells) for cells in table.to_dict("records")}
    except ValueError as error:
        raise UserError(
            f"{file}: not written by prepare.py crops ({error}); remove it, or choose another --out"
        ) from None


def _row(cells: dict) -> Row:
    face = None
    if cells["score"]:
        box, landmarks = (tuple(float(cells[name]) for name in names) for names in (_BOX, _LANDMARKS))
        face = Face(float(cells["score"]), box, landmarks)
    faces, height, width, size, mtime, crop = (int(cells[name]) for name in _NUMBERS)
    digest, settings = cells["source_sha256"], cells["settings"]
    return Row(cells["path"], cells["fallback"], face, faces, height, width, size, mtime, crop, digest, settings)
