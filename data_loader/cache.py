"""Decode once: images at the views' working size in one memory-mapped uint8 file."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from utils.errors import UserError
from utils.files import atomic_path

VERSION = 1


class Images(Protocol):
    """Decoded images by row: `images[row]` is uint8 [h, w, 3] RGB."""

    def __getitem__(self, row: int, /) -> np.ndarray: ...


def read_image(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """Decode as RGB and resize to (height, width) if given: uint8 [h, w, 3]. Raises UserError if it is no image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        what = "cannot be decoded as an image" if path.is_file() else "no such file"
        raise UserError(f"{path}: {what}")
    if size is None or image.shape[:2] == size:
        return image
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class Decoder:
    """Images read from their files each time (cache `off`)."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int]):
        self.files, self.size = files, size

    def __getitem__(self, row: int) -> np.ndarray:
        return read_image(self.files[row], self.size)


def open_images(
    files: Sequence[Path],
    size: tuple[int, int],
    mode: str,
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
) -> Images:
    """Images of `files` at `size`, decoded now or found in `folder`; every file is checked before training starts.

    mode: `off` (decode each time), `ram`, `disk`, or `auto` (`disk` where there is room for it, else `off`).
    Raises UserError naming every file that is missing or cannot be decoded (the first five of them).
    """
    needed = len(files) * size[0] * size[1] * 3
    if mode == "auto":
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        mode = "disk" if needed < free // 2 else "off"
        if mode == "off":
            tell(f"cache: off ({needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free)")
    if mode == "off":
        _decode_all(files, size, None)
        return Decoder(files, size)
    if mode == "ram":
        images = np.empty((len(files), *size, 3), np.uint8)
        _decode_all(files, size, images)
        return images
    return _open_on_disk(files, size, folder, tell)


def _open_on_disk(
    files: Sequence[Path], size: tuple[int, int], folder: Path, tell: Callable[[str], None]
) -> np.ndarray:
    shape = (len(files), *size, 3)
    path = folder / f"{_digest(files, size)}.npy"
    if not path.exists():
        tell(f"cache: decoding {len(files):,} images once to {size[0]}x{size[1]} ({np.prod(shape) / 2**20:.0f} MiB)")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            # Several runs may build the same file at once: each writes its own and the last rename wins.
            images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            _decode_all(files, size, images)
            images.flush()
            del images
    return np.load(path, mmap_mode="r")


def _digest(files: Sequence[Path], size: tuple[int, int]) -> str:
    digest = hashlib.sha256(f"{VERSION} {size} {cv2.__version__}".encode())
    for file in files:
        try:
            stat = os.stat(file)
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from error
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _decode_all(files: Sequence[Path], size: tuple[int, int], out: np.ndarray | None) -> None:
    def decode(row: int) -> str | None:
        try:
            image = read_image(files[row], size)
        except UserError as error:
            return str(error)
        if out is not None:
            out[row] = image
        return None

    with ThreadPoolExecutor(max_workers=max(1, min(16, os.cpu_count() or 1))) as pool:
        problems = [problem for problem in pool.map(decode, range(len(files))) if problem]
    if problems:
        more = f"\n… and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError("\n".join(problems[:5]) + more)
