"""A folder of pictures as a folder of face crops, in the same layout; only what changed is done again."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from data_loader.face_crops.detector import Detector, Face
from data_loader.face_crops.geometry import beyond, choose_face, cut_center, cut_face, relative_height
from data_loader.face_crops.label_tables import copy_tables
from data_loader.face_crops.table import IMPLAUSIBLE, NO_FACE, SIZE, TABLE, UNREADABLE, Row, read_rows, write_rows
from data_loader.readers.celeba_annotation import MASKS
from data_loader.readers.image_folder import images_below
from data_loader.readers.table import few
from utils.errors import UserError
from utils.run_folder import lock

Task = TypeVar("Task")
Progress = Callable[[int, int], None]

CROPPING = 2  # raised whenever the same settings would cut other crops
ENOUGH = 20  # faces from which on there is a usual size
SAVE_SECONDS = 5.0
_TEMPORARY = ".tmp-"
_QUALITY = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95]}
_QUALITY[".jpeg"] = _QUALITY[".jpg"]


@dataclass(frozen=True)
class CropSettings:
    """What decides every crop. size: (height, width); score: least confidence; margin: around the face, as a share of
    its height; outlier: a face so many times smaller or larger than the median one is none, 0 = any size is right;
    detector: what tells detectors apart."""

    size: tuple[int, int] = (224, 224)
    score: float = 0.6
    margin: float = 0.3
    outlier: float = 2.5
    detector: str = ""

    def check(self) -> None:
        """Raises UserError for numbers nothing can be cut with."""
        if not all(16 <= side <= 4096 for side in self.size):
            raise UserError(f"--size {' '.join(map(str, self.size))}: expected 16 to 4096 pixels")
        if not 0 < self.score < 1:
            raise UserError(f"--score {self.score:g}: expected a number between 0 and 1")
        if not 0 <= self.margin <= 3:
            raise UserError(f"--margin {self.margin:g}: expected a number from 0 to 3")
        if self.outlier and not self.outlier > 1:
            raise UserError(f"--outlier {self.outlier:g}: expected 0 (off) or a number above 1")

    def digest(self) -> str:
        """Of what is done to one picture; `outlier` is about all of them."""
        what = {**asdict(self), "outlier": None, "cropping": CROPPING, "opencv": cv2.__version__}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cropped:
    """rows: the table; done: crops cut now; removed: crops whose picture is gone; tables: files copied now; kept:
    tables that were edited beside the crops; beyond: share of a crop of a face that lies outside of its picture, in the
    median."""

    rows: list[Row]
    done: int
    removed: int
    tables: int
    kept: list[str]
    beyond: float

    def unreadable(self) -> list[str]:
        return [row.path for row in self.rows if row.fallback == UNREADABLE]

    def __str__(self) -> str:
        counts = Counter(row.fallback for row in self.rows)
        found, several = counts.pop("", 0), sum(row.faces > 1 for row in self.rows)
        others = "".join(f"; {reason}: {counts[reason]:,}" for reason in sorted(counts))
        return (
            f"{len(self.rows):,} images: {found:,} faces ({found / len(self.rows):.1%}), {several:,} images with "
            f"several{others}; {self.done:,} cut now, {len(self.rows) - self.done:,} as they were, {self.removed:,} "
            f"removed; {self.tables:,} tables copied"
            + (f"; {few(self.kept, 'table')} edited here and kept" if self.kept else "")
        )


def crop_folder(
    root: Path,
    out: Path,
    settings: CropSettings,
    make_detector: Callable[[], Detector],
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> Cropped:
    """Write a crop for each image of `root` under the same path in `out`, and OUT/crops.csv.

    A picture without a plausible face gives its centre. A picture is done again if its content, the settings or the
    crop have changed. Killed at any moment, a later run continues. make_detector: called once per worker thread.
    Raises UserError for folders that are none or lie in one another, and an `out` with other content.
    """
    settings.check()
    root, out = root.expanduser(), out.expanduser()
    paths = _inputs(root, out)
    try:
        return _crop(paths, _Run(root, out, settings, make_detector), workers, progress)
    except OSError as error:
        raise UserError(f"{error.filename or out}: {error.strerror}; what is done so far is kept") from error


def _crop(paths: list[str], run: _Run, workers: int, progress: Progress) -> Cropped:
    root, out, wanted = run.root, run.out, set(paths)
    out.mkdir(parents=True, exist_ok=True)
    lock(out, "crops are being written")
    for leftover in out.rglob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
    before = read_rows(out)
    rows = dict(before)
    run.all(run.renewed, [(path, before.get(path)) for path in paths], workers, rows, progress)
    removed = [path for path in rows if path not in wanted]
    for path in removed:
        (out / path).unlink(missing_ok=True)
        del rows[path]
    run.all(run.recut, run.moved(rows.values()), workers, rows)
    rows = {path: rows[path] for path in paths}
    write_rows(out, rows.values())
    faces = [(row.face, row.shape) for row in rows.values() if row.face and not row.fallback]
    outside = [beyond(face, shape, run.settings.size, run.settings.margin) for face, shape in faces]
    tables, kept = copy_tables(root, out)
    return Cropped(list(rows.values()), len(run.cut), len(removed), tables, kept, float(np.median(outside or [0.0])))


def _inputs(root: Path, out: Path) -> list[str]:
    if not root.is_dir():
        raise UserError(f"--root: no folder '{root}' (seen from {Path.cwd()})")
    inner, outer = root.resolve(), out.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise UserError(f"--out {out}: must not be, hold or lie in --root {root}")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file")
    others = [name for name in os.listdir(out) if not name.startswith(".")] if out.exists() else []
    # A first run that was killed before its first table leaves its lock.
    if others and not (out / TABLE).exists() and not (out / ".lock").exists():
        raise UserError(f"--out {out}: exists and was not made by prepare.py crops; choose another folder")
    paths = [path for path in images_below(root) if MASKS not in path.split("/")]
    if not paths:
        raise UserError(f"--root {root}: no images in this folder or the folders below it")
    return paths


class _Run:
    """One call of crop_folder: what its threads share."""

    def __init__(self, root: Path, out: Path, settings: CropSettings, make_detector: Callable[[], Detector]):
        self.root, self.out, self.settings, self.digest = root, out, settings, settings.digest()
        self.make_detector, self.of_thread = make_detector, threading.local()
        self.cut: set[str] = set()  # paths of the crops that were made

    def all(
        self,
        work: Callable[[Task], Row],
        tasks: Sequence[Task],
        workers: int,
        rows: dict[str, Row],
        progress: Progress = lambda done, total: None,
    ) -> None:
        """`work` on every task; `rows` is filled and now and then saved."""
        saved = time.monotonic()
        try:
            with _threads(workers) as pool:
                for number, row in enumerate(pool.map(work, tasks), start=1):
                    rows[row.path] = row
                    progress(number, len(tasks))
                    if time.monotonic() - saved > SAVE_SECONDS:
                        write_rows(self.out, rows.values())
                        saved = time.monotonic()
        finally:
            if rows:
                write_rows(self.out, rows.values())

    def renewed(self, task: tuple[str, Row | None]) -> Row:
        """The row of a picture: the one before if nothing has changed, else found and cut anew."""
        path, before = task
        stat = (self.root / path).stat()
        if before is not None and not self._is_whole(before):
            before = None
        if before and (before.source_bytes, before.source_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return before
        data = (self.root / path).read_bytes()
        digest = hashlib.sha256(data).hexdigest()[:32]
        if before and before.source_sha256 == digest:
            return replace(before, source_mtime_ns=stat.st_mtime_ns)
        return self._found(path, data, (len(data), stat.st_mtime_ns), digest)

    def _is_whole(self, row: Row) -> bool:
        crop = self.out / row.path
        size = crop.stat().st_size if crop.is_file() else 0
        return row.settings == self.digest and size == row.crop_bytes

    def _found(self, path: str, data: bytes, stat: tuple[int, int], digest: str) -> Row:
        image = _decoded(data)
        if image is None:
            (self.out / path).unlink(missing_ok=True)
            return Row(path, UNREADABLE, None, 0, 0, 0, *stat, 0, digest, self.digest)
        if not hasattr(self.of_thread, "detector"):
            self.of_thread.detector = self.make_detector()
        faces = self.of_thread.detector(image)
        face = choose_face(faces, image.shape)
        fallback = "" if face else IMPLAUSIBLE if faces else NO_FACE
        written = self._write(path, image, face)
        height, width = image.shape[:2]
        return Row(path, fallback, face, len(faces), height, width, *stat, written, digest, self.digest)

    def moved(self, rows: Iterable[Row]) -> list[Row]:
        """Rows whose face is of an unusual size now and was not, or the reverse, with the new `fallback`."""
        rows = [row for row in rows if row.face is not None]
        heights = np.array([relative_height(row.face, row.shape) for row in rows if row.face])
        factor, unusual = self.settings.outlier, np.zeros(len(rows), dtype=bool)
        if factor and len(rows) >= ENOUGH:
            ratio = heights / np.median(heights)
            unusual = (ratio > factor) | (ratio < 1 / factor)
        wanted = [SIZE if out else "" for out in unusual]
        return [replace(row, fallback=reason) for row, reason in zip(rows, wanted) if row.fallback != reason]

    def recut(self, row: Row) -> Row:
        """The crop of a row as its `fallback` asks for."""
        image = _decoded((self.root / row.path).read_bytes())
        if image is None:
            raise UserError(f"{self.root / row.path}: changed while it was read; run the command again")
        return replace(row, crop_bytes=self._write(row.path, image, None if row.fallback else row.face))

    def _write(self, path: str, image: np.ndarray, face: Face | None) -> int:
        """Cut and write; returns the size of the file. No fsync: a torn crop has another size and is cut again."""
        size = self.settings.size
        crop = cut_center(image, size) if face is None else cut_face(image, face, size, self.settings.margin)
        target = self.out / path
        ending = target.suffix.lower()
        data = cv2.imencode(ending, crop, _QUALITY.get(ending, []))[1].tobytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex[:12]}")
        temporary.write_bytes(data)
        os.replace(temporary, target)
        self.cut.add(path)
        return len(data)


def _decoded(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file
        return None


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """OpenCV releases the interpreter's lock, so threads do; what is left is given up when the block ends early."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(before)


def complain(cropped: Cropped) -> None:
    """Raises UserError if pictures could not be read: they have no crop."""
    if unreadable := cropped.unreadable():
        raise UserError(f"{few(unreadable, 'image')} cannot be decoded and have no crop; the others are done")
