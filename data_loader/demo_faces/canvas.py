"""A head in space and the few drawing primitives that everything on it needs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]  # BGR, 0..255
SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Head:
    """An ellipsoid seen by an orthographic camera; one unit is half the height of the head.

    Face coordinates: x to the image's right, y down, (0, 0) between the eyes of a head that looks straight ahead;
    skull top at y = -1, chin at y = 1. Angles in radians; `scale` pixels per unit, `centre` in pixels.
    """

    half_width: float
    depth: float
    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]

    def surface(self, points: np.ndarray, lift: float = 0.0) -> np.ndarray:
        """Points on the face (or `lift` above it), [N, 2] face coordinates -> [N, 2] pixels."""
        points = np.asarray(points, dtype=np.float64)
        x, y = points[:, 0], points[:, 1]
        inside = 1.0 - (x / (1.03 * self.half_width)) ** 2 - (y / 1.25) ** 2
        z = self.depth * np.sqrt(np.clip(inside, 0.0, 1.0)) + lift
        turned = x * np.cos(self.yaw) + z * np.sin(self.yaw)
        return self._to_pixels(turned, y * np.cos(self.pitch) + z * np.sin(self.pitch))

    def outline(self, points: np.ndarray, front: np.ndarray | float = 0.0) -> np.ndarray:
        """Silhouette points: they keep their width when the head turns; `front` (depth) moves them with the face."""
        points = np.asarray(points, dtype=np.float64)
        shift = self.depth * np.asarray(front)
        return self._to_pixels(points[:, 0] + shift * np.sin(self.yaw), points[:, 1] + shift * np.sin(self.pitch))

    def _to_pixels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        rotated = np.stack([x * cos - y * sin, x * sin + y * cos], axis=1)
        return rotated * self.scale + np.asarray(self.centre)


def fill(image: np.ndarray, points: np.ndarray, colour: Colour | int) -> None:
    """Antialiased polygon, [N, 2] pixels."""
    cv2.fillPoly(image, [_fixed(points)], _scalar(colour), cv2.LINE_AA, SUBPIXEL_BITS)


def stroke(
    image: np.ndarray, points: np.ndarray, colour: Colour | int, width: float = 1.0, closed: bool = False
) -> None:
    """Antialiased polyline, [N, 2] pixels; widths are rounded to whole pixels."""
    thickness = max(1, round(width))
    cv2.polylines(image, [_fixed(points)], closed, _scalar(colour), thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def paint(image: np.ndarray, mask: np.ndarray, colour: Colour | np.ndarray, opacity: float = 1.0) -> None:
    """Blend a colour or a whole picture into `image` where `mask` (uint8) says so."""
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0 or opacity <= 0.0:
        return
    window = (slice(y, y + height), slice(x, x + width))
    source = colour[window] if isinstance(colour, np.ndarray) else np.asarray(colour, dtype=np.float32)
    alpha = mask[window][..., None].astype(np.float32) * (opacity / 255.0)
    below = image[window].astype(np.float32)
    image[window] = np.clip(below + (source - below) * alpha + 0.5, 0, 255).astype(np.uint8)


def soften(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur in pixels of what is in the mask."""
    x, y, width, height = cv2.boundingRect(mask)
    if sigma <= 0.2 or width == 0:
        return mask
    margin = int(3 * sigma) + 2
    window = (slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin))
    softened = np.zeros_like(mask)
    softened[window] = cv2.GaussianBlur(mask[window], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return softened


def blank(image: np.ndarray) -> np.ndarray:
    """An empty mask of the image's size."""
    return np.zeros(image.shape[:2], dtype=np.uint8)


def ellipse(
    centre: tuple[float, float], half_axes: tuple[float, float], tilt: float = 0.0, steps: int = 24
) -> np.ndarray:
    """Polygon of an ellipse, [steps, 2]."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    x, y = half_axes[0] * np.cos(angle), half_axes[1] * np.sin(angle)
    return np.stack(
        [centre[0] + x * np.cos(tilt) - y * np.sin(tilt), centre[1] + x * np.sin(tilt) + y * np.cos(tilt)], axis=1
    )


def smooth_curve(points: Sequence[Sequence[float]] | np.ndarray, steps: int = 32) -> np.ndarray:
    """A rounded open curve near the given points, [..., N, 2] -> [..., steps, 2]."""
    control = np.asarray(points, dtype=np.float64)
    return np.asarray(_curve_weights(control.shape[-2], steps) @ control)


@functools.lru_cache(maxsize=64)
def _curve_weights(count: int, steps: int) -> np.ndarray:
    """[steps, count]: the curve as a linear map of its control points (Chaikin's corner cutting, three rounds)."""
    weights = np.eye(count)
    for _ in range(3):
        near, far = 0.75 * weights[:-1] + 0.25 * weights[1:], 0.25 * weights[:-1] + 0.75 * weights[1:]
        inner = np.stack([near, far], axis=1).reshape(-1, count)
        weights = np.concatenate([weights[:1], inner, weights[-1:]])
    at, index = np.linspace(0, len(weights) - 1, steps), np.arange(len(weights))
    return np.stack([np.interp(at, index, column) for column in weights.T], axis=1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Low-frequency noise in -1..1, float32 of `shape`, about `cells` bumps across."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the one."""
    blended = [a + (b - a) * share for a, b in zip(one, other)]
    return blended[0], blended[1], blended[2]


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (< 1) or lighter (> 1)."""
    scaled = [min(255.0, c * factor) for c in colour]
    return scaled[0], scaled[1], scaled[2]


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(points) * (1 << SUBPIXEL_BITS)).astype(np.int32).reshape(-1, 1, 2)


def _scalar(colour: Colour | int) -> tuple[float, ...]:
    return (float(colour),) if isinstance(colour, int) else colour
