"""Decode once: images at the views' working size, on disk and memory-mapped, in memory, or from their files."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from data_loader.decode import Size, check_image
from data_loader.image_reader import ImageReader
from data_loader.pixel_store import KEY_BYTES, PixelStore, StoredImages
from logger.progress import Progress
from utils.errors import UserError, raise_all
from utils.file_lock import locked
from utils.files import encoded
from utils.memory import available_memory

Tell = Callable[[str], None]


class UndecodableImages(UserError):
    """Files that are missing or no whole images, a line for each of the first five."""


class Images(Protocol):
    """Decoded images by row: `images[row]` is uint8 [h, w, 3] RGB."""

    def __getitem__(self, row: int, /) -> np.ndarray: ...


class Decoder:
    """Images read from their files each time (cache `off`)."""

    def __init__(self, files: Sequence[Path], read: ImageReader):
        self.files, self.read = files, read

    def __getitem__(self, row: int) -> np.ndarray:
        return self.read(self.files[row])


def open_images(
    files: Sequence[Path], read: ImageReader, mode: str, folder: Path, tell: Tell = lambda _: None
) -> Images:
    """Images of `files`, decoded now or found in `folder`; every file is checked before training starts.

    read: how a file becomes an image; it has a size.
    mode: `off` (decode each time), `ram`, `disk`, or `auto` (`disk` where there is room for it, else `off`).
    Raises UserError naming the files that are missing or cannot be decoded (the first five of them); with `off` files
    are checked by `check_image`.
    """
    size = read.size
    if size is None:
        raise ValueError("images of different sizes cannot be kept together")
    if mode == "auto":
        mode = _choose(files, _store(read, size, folder), tell)
    if mode == "off":
        _for_all(lambda row: check_image(files[row], size), range(len(files)), "checking")
        return Decoder(files, read)
    if mode == "ram":
        images = _in_memory(len(files), size)

        def decode(row: int) -> None:
            images[row] = read(files[row])

        _for_all(decode, range(len(files)), "decoding")
        return images
    try:
        return _open_on_disk(files, read, _store(read, size, folder), tell)
    except OSError as error:
        raise UserError(
            f"data_loader.cache: {folder}: {error.strerror or error}; set it to ram or off, "
            "or trainer.save_dir to another disk"
        ) from error


def _in_memory(count: int, size: Size) -> np.ndarray:
    """Room for the images. Raises UserError if there is none: the system may promise it and kill us later."""
    needed, free = count * size[0] * size[1] * 3, available_memory()
    try:
        if free is None or needed <= free:
            return np.empty((count, *size, 3), np.uint8)
    except (MemoryError, ValueError):
        pass
    room = f"{needed / 2**30:,.1f} GiB" + ("" if free is None else f", {free / 2**30:,.1f} are free")
    raise UserError(
        f"data_loader.cache: ram: {count:,} images of {size[0]}x{size[1]} pixels need {room}; set it to disk or off, "
        "or make views.size smaller"
    )


def _choose(files: Sequence[Path], store: PixelStore, tell: Tell) -> str:
    """`disk` if what is not there yet takes less than half of the free space, else `off`."""
    folder, keys = store.keys.parent, _keys(files)
    try:
        needed = len(store.missing(keys)) * store.image_bytes
        if needed:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(store.lock, wait=False):
                pass
        free = shutil.disk_usage(folder).free if needed else 1
    except OSError as error:
        tell(f"cache: off, images are decoded for every batch ({folder}: {error.strerror or error})")
        return "off"
    if needed <= free // 2:
        return "disk"
    tell(
        f"cache: off, images are decoded for every batch ({needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} free; "
        "data_loader.cache=ram keeps them in memory)"
    )
    return "off"


def _store(read: ImageReader, size: Size, folder: Path) -> PixelStore:
    """One store for everything that decides about the pixels of a file."""
    settings = hashlib.sha256(read.settings.encode()).hexdigest()[:8]
    return PixelStore(folder, f"{size[0]}x{size[1]}-{settings}", (*size, 3))


def _keys(files: Sequence[Path]) -> list[bytes]:
    """What identifies a file's content without reading it: path, size and time of change."""

    @functools.cache
    def real(parent: str) -> str:
        return os.path.realpath(parent)

    keys, problems = [], []
    for file in files:
        try:
            stat = os.stat(file)
        except OSError as error:
            problems.append(f"{file}: {(error.strerror or 'cannot be read').lower().removesuffix(' or directory')}")
            continue
        name = os.path.join(real(os.path.dirname(file)), os.path.basename(file))
        text = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"
        keys.append(hashlib.blake2b(encoded(text), digest_size=KEY_BYTES).digest())
    raise_all(problems)
    return keys


def _open_on_disk(files: Sequence[Path], read: ImageReader, store: PixelStore, tell: Tell) -> StoredImages:
    store.keys.parent.mkdir(parents=True, exist_ok=True)
    keys = _keys(files)
    try:
        return store.open(keys)
    except KeyError:
        pass
    with locked(store.lock, wait=False) as got:
        if got:
            return _complete(store, keys, files, read, tell)
    tell("cache: waiting for another process that decodes images of this size")
    with locked(store.lock):
        return _complete(store, keys, files, read, tell)


def _complete(
    store: PixelStore, keys: list[bytes], files: Sequence[Path], read: ImageReader, tell: Tell
) -> StoredImages:
    missing = store.missing(keys)
    if missing:
        room = len(missing) * store.image_bytes / 2**20
        height, width, _ = store.shape
        tell(f"cache: decoding {len(missing):,} of {len(keys):,} images once to {height}x{width} ({room:.0f} MiB)")
        problems: list[str] = []

        def write(put: Callable[[int, np.ndarray], None], numbers: Iterable[int]) -> set[int]:
            found = _problems(lambda n: put(n, read(files[missing[n]])), list(numbers), "decoding", len(missing))
            problems.extend(found.values())
            return set(found)

        store.add([keys[row] for row in missing], write)
        raise_all(problems, UndecodableImages)
    return store.open(keys)


def unreadable(files: Sequence[Path], read: ImageReader) -> dict[int, str]:
    """What is wrong with the files that cannot be read, by their places."""
    return _problems(lambda row: read(files[row]), range(len(files)), "checking", len(files))


def _for_all(work: Callable[[int], object], rows: Sequence[int], name: str) -> None:
    raise_all(list(_problems(work, rows, name, len(rows)).values()), UndecodableImages)


def _problems(work: Callable[[int], object], rows: Sequence[int], name: str, total: int) -> dict[int, str]:
    """work(row) for all rows, in threads (OpenCV and reading files let others run); the UserErrors met, by row."""

    def attempt(row: int) -> str | None:
        try:
            work(row)
        except UserError as error:
            return str(error)
        return None

    threads = max(1, min(16, os.cpu_count() or 1))
    found: dict[int, str] = {}
    first = rows[0] if len(rows) else 0
    with ThreadPoolExecutor(threads) as pool, Progress(total, first, name, 1) as progress:
        for row, problem in zip(rows, pool.map(attempt, rows)):
            if problem:
                found[row] = problem
            progress.update()
    return found
