"""The views of most configs in OpenCV and NumPy, in a third of the time of albumentations and less.

Images are uint8 [h, w, 3] RGB. No function writes into the image it gets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np

Image = np.ndarray


class Transform(Protocol):
    """A random change of an image; all that is random about it comes from `rng`."""

    def __call__(self, image: Image, rng: np.random.Generator) -> Image: ...


# Operations of RandAugment: (image, magnitude) -> image, magnitude 1 to 9, for geometric ones -1 to -9 too. Factors,
# thresholds, angles and distances are those of FixMatch's published code. What differs: geometric ones work about the
# center, interpolate and reflect the border, which that code leaves black; `posterize` leaves the paper's 8 to 4 bits
# (Sohn et al. 2020, table 12), that code 4 to 1.


def identity(image: Image, magnitude: int) -> Image:
    return image


def auto_contrast(image: Image, magnitude: int) -> Image:
    """Each channel stretched to 0 … 255; one of a single value stays."""
    matrix = np.eye(3, 4, dtype=np.float32)
    for i, channel in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(channel)
        if high > low:
            matrix[i, i], matrix[i, 3] = 255 / (high - low), -low * 255 / (high - low)
    return cv2.transform(image, matrix)


def equalize(image: Image, magnitude: int) -> Image:
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])


def posterize(image: Image, magnitude: int) -> Image:
    return image & np.uint8(256 - (1 << round(0.4 * magnitude)))


def solarize(image: Image, magnitude: int) -> Image:
    """Values of 256 - 25.6 · magnitude and more are inverted."""
    _, inverted = cv2.threshold(image, 255 - int(25.6 * magnitude), 255, cv2.THRESH_BINARY)
    return cv2.bitwise_xor(image, inverted)


def _factor(magnitude: int) -> float:
    return 0.1 + 0.18 * magnitude


def color(image: Image, magnitude: int) -> Image:
    """Between the gray image (0) and the image (1), and beyond."""
    factor = _factor(magnitude)
    gray = np.array([0.299, 0.587, 0.114], np.float32)
    return cv2.transform(image, factor * np.eye(3, dtype=np.float32) + (1 - factor) * gray)


def contrast(image: Image, magnitude: int) -> Image:
    """Between the image's mean gray (0) and the image (1), and beyond."""
    factor, (red, green, blue, _) = _factor(magnitude), cv2.mean(image)
    mean = int(0.299 * red + 0.587 * green + 0.114 * blue + 0.5)
    return cv2.addWeighted(image, factor, image, 0, mean * (1 - factor))


def brightness(image: Image, magnitude: int) -> Image:
    return cv2.convertScaleAbs(image, alpha=_factor(magnitude))


def sharpness(image: Image, magnitude: int) -> Image:
    """Between the image smoothed by a kernel with 5 in the middle and 1 around it (0) and the image (1), and beyond."""
    factor = _factor(magnitude)
    around = (1 - factor) * 9 / 13  # the kernel's sum is 13, that of a box 9
    return cv2.addWeighted(image, 1 - around, cv2.blur(image, (3, 3)), around, 0)


def _warp(image: Image, matrix: np.ndarray) -> Image:
    """matrix: [2, 3] from places in the result to places in the image."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def rotate(image: Image, magnitude: int) -> Image:
    return turn(image, 3.0 * magnitude, 1.0)


def turn(image: Image, degrees: float, scale: float) -> Image:
    """Counter-clockwise by `degrees` and magnified by `scale`, about the center."""
    center = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    return _warp(image, cv2.getRotationMatrix2D(center, -degrees, 1 / scale))


def shear_x(image: Image, magnitude: int) -> Image:
    slope = 0.03 * magnitude
    return _warp(image, np.array([[1, slope, -slope * (image.shape[0] - 1) / 2], [0, 1, 0]]))


def shear_y(image: Image, magnitude: int) -> Image:
    slope = 0.03 * magnitude
    return _warp(image, np.array([[1, 0, 0], [slope, 1, -slope * (image.shape[1] - 1) / 2]]))


def translate_x(image: Image, magnitude: int) -> Image:
    return shift(image, 0, int(-0.03 * magnitude * image.shape[1]))


def translate_y(image: Image, magnitude: int) -> Image:
    return shift(image, int(-0.03 * magnitude * image.shape[0]), 0)


def shift(image: Image, down: int, right: int) -> Image:
    """The image moved by less than half of its size, reflected where nothing is left of it; always a new array."""
    height, width = image.shape[:2]
    left = image[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
    border = max(down, 0), max(-down, 0), max(right, 0), max(-right, 0)
    return cv2.copyMakeBorder(left, *border, cv2.BORDER_REFLECT_101)


Operation = Callable[[Image, int], Image]
GEOMETRIC: tuple[Operation, ...] = (rotate, shear_x, shear_y, translate_x, translate_y)
OPERATIONS: tuple[Operation, ...] = (
    *GEOMETRIC,
    *(identity, auto_contrast, equalize, posterize, solarize, color, contrast, brightness, sharpness),
)


class Flip:
    """Every second image mirrored."""

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        return cv2.flip(image, 1) if rng.random() < 0.5 else image


class FlipTranslate:
    """Every second image mirrored; then each moved by up to an eighth of its size, the border reflected."""

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        flipped, down, right = rng.random(3).tolist()
        most_down, most_right = round(image.shape[0] / 8), round(image.shape[1] / 8)
        if flipped < 0.5:
            image = cv2.flip(image, 1)
        return shift(image, int(down * (2 * most_down + 1)) - most_down, int(right * (2 * most_right + 1)) - most_right)


class TurnScale:
    """Every second image turned by up to `degrees` either way and magnified by 1 - `scale` to 1 + `scale`."""

    def __init__(self, degrees: float, scale: float):
        self.degrees, self.scale = degrees, scale

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        applied, angle, size = rng.random(3).tolist()
        if applied >= 0.5:
            return image
        return turn(image, self.degrees * (2 * angle - 1), 1 + self.scale * (2 * size - 1))


class BrightnessContrast:
    """Every second image's values v become (1 + c) · v + 255 · b, with b and c drawn from -`most` to `most`."""

    def __init__(self, most: float):
        self.most = most

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        applied, b, c = rng.random(3).tolist()
        if applied >= 0.5:
            return image
        return cv2.addWeighted(image, 1 + self.most * (2 * c - 1), image, 0, 255 * self.most * (2 * b - 1))


class RandAugment:
    """Two of the 14 operations, drawn with replacement; each is applied with p = 0.5 and a magnitude of 1 to 9."""

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        for which, applied, strength, sign in rng.random((2, 4)).tolist():
            if applied < 0.5:
                number, magnitude = int(which * len(OPERATIONS)), 1 + int(strength * 9)
                image = OPERATIONS[number](image, -magnitude if number < len(GEOMETRIC) and sign < 0.5 else magnitude)
        return image


class Cutout:
    """A gray hole somewhere inside; height and width are drawn from `sides`, (lowest, highest) share of the image's."""

    def __init__(self, sides: tuple[float, float]):
        self.sides = sides

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        (low, high), (height, width) = self.sides, image.shape[:2]
        tall, wide, down, right = rng.random(4).tolist()
        hole_height, hole_width = (
            round((low + (high - low) * share) * side) for share, side in ((tall, height), (wide, width))
        )
        top, left = int(down * (height - hole_height + 1)), int(right * (width - hole_width + 1))
        image = image.copy()
        image[top : top + hole_height, left : left + hole_width] = 127
        return image
