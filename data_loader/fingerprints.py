"""What tells images apart without looking at two of them: a hash of the file, and a small picture. Computed once."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError
from utils.files import atomic_path, encoded

VERSION = 1
SIDE = 24
_FILE = "fingerprints.npz"


@dataclass(frozen=True)
class Fingerprints:
    """content: uint64 [N, 2], hash of the file. dhash: uint64 [N], difference hash of the grey image: each bit says
    whether a pixel of its 9 x 8 version is darker than the one to the right. small: uint8 [N, 24 · 24], the grey image.
    """

    content: np.ndarray
    dhash: np.ndarray
    small: np.ndarray


def fingerprints(files: Sequence[Path], folder: Path, tell: Callable[[str], None] = lambda _: None) -> Fingerprints:
    """Fingerprints of `files`. Those of files whose path, size and date are known are found in `folder`.

    Raises UserError naming the files (the first five) that are missing or no images.
    """
    keys = _keys(files)
    known = _load(folder / _FILE)
    number = {key: row for row, key in enumerate(map(bytes, known["key"]))}
    row_of = np.array([number.get(key, -1) for key in map(bytes, keys)], dtype=np.int64)
    new = np.flatnonzero(row_of < 0)
    if len(new):
        tell(f"duplicates: reading {len(new):,} images once")
        made = _make([files[int(row)] for row in new])
        row_of[new] = len(known["key"]) + np.arange(len(new))
        known = {name: np.concatenate([known[name], part]) for name, part in {"key": keys[new], **made}.items()}
        _save(folder / _FILE, known)
    return Fingerprints(known["content"][row_of], known["dhash"][row_of], known["small"][row_of])


def _keys(files: Sequence[Path]) -> np.ndarray:
    """uint64 [N, 2]: hash of path, size and date of each file."""
    keys = np.empty((len(files), 2), np.uint64)
    for row, file in enumerate(files):
        try:
            stat = os.stat(file)
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from error
        keys[row] = _hash(encoded(f"{VERSION}\0{file.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"))
    return keys


def _hash(data: bytes) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint64)


def _make(files: Sequence[Path]) -> dict[str, np.ndarray]:
    content, dhash = np.empty((len(files), 2), np.uint64), np.empty(len(files), np.uint64)
    small = np.empty((len(files), SIDE * SIDE), np.uint8)

    def read(row: int) -> str | None:
        try:
            data = files[row].read_bytes()
        except OSError as error:
            return f"{files[row]}: {error.strerror}"
        gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
        if gray is None:
            return f"{files[row]}: cannot be decoded as an image"
        content[row] = _hash(data)
        small[row] = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
        nine = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
        dhash[row] = np.packbits(nine[:, :-1] < nine[:, 1:]).view(np.uint64)[0]
        return None

    with ThreadPoolExecutor(max_workers=max(1, min(16, os.cpu_count() or 1))) as pool:
        problems = [problem for problem in pool.map(read, range(len(files))) if problem]
    if problems:
        more = f"\n… and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError("\n".join(problems[:5]) + more)
    return {"content": content, "dhash": dhash, "small": small}


def _load(path: Path) -> dict[str, np.ndarray]:
    """What was computed before; nothing if the file is not there or damaged."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as stored:
        return {name: stored[name] for name in ("key", "content", "dhash", "small")}
    empty = {"key": (0, 2), "content": (0, 2), "dhash": (0,)}
    return {
        **{name: np.empty(shape, np.uint64) for name, shape in empty.items()},
        "small": np.empty((0, SIDE * SIDE), np.uint8),
    }


def _save(path: Path, known: dict[str, np.ndarray]) -> None:
    # A folder that cannot be written costs the time of reading the images again, no more.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.savez(temporary, **known)  # type: ignore[arg-type]
