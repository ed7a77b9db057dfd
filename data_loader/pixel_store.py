"""Decoded images of one size in a file that only grows; shared by all runs, whole after any kind of death.

Image i of `NAME.pixels` is the one whose key is the i-th of `NAME.keys`. A key is written after its pixels are on the
disk, so what a killed process leaves behind is pixels without keys, which the next one writes over. One process at a
time appends (`NAME.lock`); readers hold a shared lock on the keys, so that `clear` leaves alone what is in use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from utils.file_lock import locked, try_lock

KEY_BYTES = 16
_NO_KEY = bytes(KEY_BYTES)
# Keys are written, and the disk waited for, after so many bytes of pixels.
_COMMIT_BYTES = 1 << 28


class StoredImages:
    """images[row]: uint8 [h, w, 3], read-only, straight from the mapped file. Pickled without its content.

    in_use: the locked file of keys, open as long as the images are used.
    """

    def __init__(self, store: PixelStore, slots: np.ndarray, in_use: IO[bytes]):
        self.store, self.slots, self._in_use = store, slots, in_use
        shape = (int(slots.max(initial=-1)) + 1, *store.shape)
        mapped = np.memmap(store.pixels, np.uint8, "r", shape=shape) if len(slots) else np.empty(shape, np.uint8)
        # A plain array: indexing the subclass would cost more than the copy of a small image.
        self._pixels = mapped.view(np.ndarray)

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, row: int) -> np.ndarray:
        return self._pixels[self.slots[row]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self.store, self.slots)


def _open_again(store: PixelStore, slots: np.ndarray) -> StoredImages:
    return StoredImages(store, slots, store.hold())


class PixelStore:
    """The files `folder/name.{pixels,keys,lock}` with images of `shape` [h, w, 3]."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, int, int]):
        self.shape, self.image_bytes = shape, int(np.prod(shape))
        self.pixels, self.keys, self.lock = (folder / f"{name}.{end}" for end in ("pixels", "keys", "lock"))

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Numbers of those `keys` that are not stored; of equal ones the first."""
        try:
            with self.hold() as index:
                known = self._slots(index)
        except KeyError:
            known = {}
        first: dict[bytes, int] = {}
        for number, key in enumerate(keys):
            if key not in known:
                first.setdefault(key, number)
        return list(first.values())

    def open(self, keys: Sequence[bytes]) -> StoredImages:
        """The images of `keys`. Raises KeyError if one is not stored."""
        index = self.hold()
        known = self._slots(index)
        return StoredImages(self, np.array([known[key] for key in keys], dtype=np.int64), index)

    def hold(self) -> IO[bytes]:
        """The file of keys; until it is closed, `clear` leaves the store alone. Raises KeyError if there is none."""
        try:
            index = self.keys.open("rb")
            if try_lock(index.fileno(), shared=True) and os.path.samestat(self.keys.stat(), os.fstat(index.fileno())):
                return index
        except FileNotFoundError:
            pass
        raise KeyError(f"{self.keys}: not there, or being removed")

    def add(self, keys: Sequence[bytes], write: Callable[[Callable[[int, np.ndarray], None], range], set[int]]) -> None:
        """Append images; call it with the lock held.

        write(put, numbers) calls put(number, image uint8 [h, w, 3]) for numbers of `keys`, from any thread, and returns
        the numbers that it could not. Raises OSError if the disk is full.
        """
        step = max(1, _COMMIT_BYTES // self.image_bytes)
        with _open_for_update(self.pixels) as pixels, _open_for_update(self.keys) as index:
            stored = self._whole(index, pixels)
            index.truncate(stored * KEY_BYTES)
            try:
                for start in range(0, len(keys), step):
                    numbers = range(start, min(start + step, len(keys)))
                    failed = write(_Putter(pixels.fileno(), stored - start, self.image_bytes), numbers)
                    os.fsync(pixels.fileno())
                    index.seek(stored * KEY_BYTES)
                    index.write(b"".join(_NO_KEY if n in failed else keys[n] for n in numbers))
                    index.flush()
                    os.fsync(index.fileno())
                    stored += len(numbers)
            except BaseException:
                pixels.truncate(stored * self.image_bytes)
                raise

    def _slots(self, index: IO[bytes]) -> dict[bytes, int]:
        with self.pixels.open("rb") as pixels:
            content = index.read(self._whole(index, pixels) * KEY_BYTES)
        keys = (content[at : at + KEY_BYTES] for at in range(0, len(content), KEY_BYTES))
        return {key: slot for slot, key in enumerate(keys) if key != _NO_KEY}

    def _whole(self, index: IO[bytes], pixels: IO[bytes]) -> int:
        """Images that have both pixels and a key."""
        sizes = (os.fstat(file.fileno()).st_size for file in (index, pixels))
        return min(size // unit for size, unit in zip(sizes, (KEY_BYTES, self.image_bytes)))


class _Putter:
    """put(number, image) at its place in the file; not through a map, where a full disk would kill the process."""

    def __init__(self, descriptor: int, offset: int, image_bytes: int):
        self.descriptor, self.offset, self.image_bytes = descriptor, offset, image_bytes
        self._turn = threading.Lock()

    def __call__(self, number: int, image: np.ndarray) -> None:
        at, data = (self.offset + number) * self.image_bytes, memoryview(np.ascontiguousarray(image).reshape(-1))  # type: ignore[arg-type]
        while data:
            if hasattr(os, "pwrite"):
                done = os.pwrite(self.descriptor, data, at)
            else:
                with self._turn:
                    os.lseek(self.descriptor, at, os.SEEK_SET)
                    done = os.write(self.descriptor, data)
            at, data = at + done, data[done:]


def _open_for_update(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")


def clear(folder: Path) -> tuple[int, list[Path]]:
    """Remove the stores of `folder` that no process uses; returns the bytes freed and the pixel files left alone."""
    freed, left = 0, []
    for pixels in sorted(folder.glob("*.pixels")):
        keys = pixels.with_suffix(".keys")
        with locked(pixels.with_suffix(".lock"), wait=False) as got, keys.open("a+b") as index:
            if got and try_lock(index.fileno()):
                freed += _remove(pixels) + _remove(keys)
            else:
                left.append(pixels)
    return freed + sum(_remove(path) for path in folder.glob("*.npy")), left  # .npy: of earlier versions


def _remove(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size
