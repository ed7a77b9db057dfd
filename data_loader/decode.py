"""From an image file to uint8 RGB at the views' working size: the one decode path, with and without a cache."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.errors import UserError

Size = tuple[int, int]

# Counted up whenever the pixels of `read_image` change, so that no cache mixes old and new ones.
DECODING = 2

_REDUCED = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82"}


def read_image(path: Path, size: Size | None, crop: Size | None = None) -> np.ndarray:
    """Decode as RGB and resize to (height, width) if given: uint8 [h, w, 3].

    crop: (height, width) of the central part that is taken before, or as much of it as there is.
    Raises UserError if the file is no image or breaks off. A JPEG of at least four times the size, of which nothing is
    cropped, is decoded at a half, a quarter or an eighth (libjpeg's scaled inverse DCT), the smallest that still is
    twice the size.
    """
    data = _content(path)
    image = _decode(data, None if size is None or crop is not None else _reduction(data, size))
    if image is not None and size is not None and (image.shape[0] < size[0] or image.shape[1] < size[1]):
        image = _decode(data, None)  # small, or turned by 90 degrees by its EXIF tag
    if image is None:
        raise UserError(f"{path}: cannot be decoded as an image")
    return fit(image, size, crop)


def fit(image: np.ndarray, size: Size | None, crop: Size | None = None) -> np.ndarray:
    """What `read_image` does with a decoded image, uint8 [h, w, 3]."""
    if crop is not None:
        image = _center(image, crop)
    if size is None or image.shape[:2] == size:
        return image
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _center(image: np.ndarray, crop: Size) -> np.ndarray:
    height, width = (min(side, most) for side, most in zip(image.shape, crop))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def check_image(path: Path, size: Size) -> None:
    """Raises UserError for a file that `read_image` would refuse, for a hundredth of its time in most cases.

    Of JPEG and PNG files head and end are looked at, whatever has another or a doubtful one is decoded; damage in the
    middle of a file is not seen.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(-12, 2)
            tail = file.read()
    except OSError:
        head = tail = b""
    if not any(head.startswith(start) and end in tail for start, end in _ENDS.items()):
        read_image(path, size)


def _content(path: Path) -> np.ndarray:
    try:
        return np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error


def _decode(data: np.ndarray, reduction: int | None) -> np.ndarray | None:
    if not len(data):
        return None
    if reduction is None:
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    image = cv2.imdecode(data, reduction)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _reduction(data: np.ndarray, size: tuple[int, int]) -> int | None:
    """OpenCV's flag for decoding at a reduced scale, or None for the full one."""
    source = jpeg_size(data)
    if source is None or source[0] < 4 * size[0] or source[1] < 4 * size[1]:
        return None
    factors = (flag for k, flag in _REDUCED if source[0] >= 2 * k * size[0] and source[1] >= 2 * k * size[1])
    return next(factors)


def jpeg_size(data: np.ndarray) -> tuple[int, int] | None:
    """(height, width) from a JPEG's frame header (ITU T.81, B.2.2); None for other files."""
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = int(data[at + 1])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int(data[at + i]) << 8 | int(data[at + i + 1]) for i in (5, 7))
            return height, width
        stands_alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD7
        at += (1 if marker == 0xFF else 2) if stands_alone else 2 + (int(data[at + 2]) << 8 | int(data[at + 3]))
    return None
