"""Mean and standard deviation of all pixels of a set of images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_loader.image_reader import ImageReader
from utils.errors import UserError, raise_all
from utils.files import atomic_write, encoded

VERSION = 1
_LEVELS = 256


@dataclass(frozen=True)
class PixelStatistics:
    """Per channel (red, green, blue) of images in [0, 1]; std is that of all pixels together, with division by N."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: int

    def option(self) -> dict[str, list[float]]:
        """The value of `views.normalize`."""
        return {"mean": [round(value, 6) for value in self.mean], "std": [round(value, 6) for value in self.std]}


def from_histogram(counts: np.ndarray) -> PixelStatistics:
    """counts: int64 [3, 256], how many pixels have each level. Exact sums, whatever their order."""
    levels = np.arange(_LEVELS, dtype=np.int64)
    total = int(counts[0].sum())
    mean = (counts @ levels) / total
    variance = ((levels - mean[:, None]) ** 2 * counts).sum(axis=1) / total
    return PixelStatistics(tuple((mean / 255).tolist()), tuple((np.sqrt(variance) / 255).tolist()), total)


def pixel_statistics(
    files: Sequence[Path],
    read: ImageReader,
    folder: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PixelStatistics:
    """Of all pixels of `files` as `read` gives them; without a size (as they are) large images weigh more.

    Kept in `folder`, and found there again as long as the files, their sizes and dates are the same.
    Raises UserError naming images that cannot be read (the first five), and if all pixels of a channel are the same.
    """
    cached = folder / f"statistics-{_digest(files, read)}.json"
    if cached.is_file():
        counts = np.array(json.loads(cached.read_text(encoding="utf-8")), dtype=np.int64)
    else:
        counts = _count(files, read, workers, progress)
        # A folder that cannot be written costs the time of reading the images again, no more.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(cached, json.dumps(counts.tolist()))
    statistics = from_histogram(counts)
    if min(statistics.std) == 0:
        raise UserError("all pixels of a channel are the same: a standard deviation of 0 cannot normalise images")
    return statistics


def _count(
    files: Sequence[Path],
    read: Callable[[Path], np.ndarray],
    workers: int,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    def levels(file: Path) -> np.ndarray | str:
        try:
            image = read(file)
        except UserError as error:
            return str(error)
        return np.stack([np.bincount(image[..., channel].ravel(), minlength=_LEVELS) for channel in range(3)])

    counts = np.zeros((3, _LEVELS), dtype=np.int64)
    problems: list[str] = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for number, found in enumerate(pool.map(levels, files), start=1):
            if isinstance(found, str):
                problems.append(found)
            else:
                counts += found
            progress(number, len(files))
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
    raise_all(problems)
    return counts


def _digest(files: Sequence[Path], read: ImageReader) -> str:
    lines, problems = [], []
    for file in files:
        try:
            stat = os.stat(file)
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")
            continue
        lines.append(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    raise_all(problems)
    text = f"{VERSION} {read.size} {read.settings}\n" + "".join(sorted(lines))
    return hashlib.sha256(encoded(text)).hexdigest()[:32]
