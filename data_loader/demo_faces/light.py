"""Background, light on the head, and what a camera does to it all."""

from __future__ import annotations

import cv2
import numpy as np

from data_loader.demo_faces.canvas import Head, blank, fill, shade, smooth_noise, soften
from data_loader.demo_faces.person import Person, Scene
from data_loader.demo_faces.wear import random_colour


def paint_background(image: np.ndarray, scene: Scene, person: Person, rng: np.random.Generator) -> None:
    """Fill the whole canvas; drawn at half its size, because a background is out of focus."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    kind = scene.background
    first = shade(person.hair, float(rng.uniform(0.8, 1.2))) if kind == "hair" else random_colour(rng)
    second = shade(first, float(rng.uniform(0.5, 1.5))) if rng.random() < 0.5 else random_colour(rng)
    if kind == "dark":
        first, second = random_colour(rng, 4, 35), random_colour(rng, 4, 50)
    ramp = _ramp(kind, height, width, rng)[..., None]
    start, change = np.asarray(first, np.float32), np.asarray(second, np.float32) - np.asarray(first, np.float32)
    field = np.clip(start + change * ramp, 0, 255).astype(np.uint8)
    if kind in ("bokeh", "clutter"):
        for _ in range(int(rng.integers(5, 22))):
            _blob(field, kind, rng)
        field = cv2.GaussianBlur(field, (0, 0), float(rng.uniform(0.4, 2.0)))
    image[:] = cv2.resize(field, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def _ramp(kind: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A field in 0..1 that mixes the two background colours."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width) - 0.5
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == "flat":
        return np.full((height, width), 0.1, np.float32) + 0.05 * smooth_noise(rng, (height, width), 4)
    if kind == "stripes":
        return 0.5 + 0.5 * np.tanh(4 * np.sin(along * rng.uniform(15, 70)))
    if kind in ("clouds", "clutter", "hair"):
        return np.clip(
            0.5 + 0.4 * smooth_noise(rng, (height, width), 5) + 0.25 * smooth_noise(rng, (height, width), 14), 0, 1
        )
    return np.clip(along + 0.5, 0, 1)


def _blob(image: np.ndarray, kind: str, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
    size = int(width * rng.uniform(0.02, 0.16))
    colour = random_colour(rng)
    if kind == "bokeh" or rng.random() < 0.3:
        cv2.circle(image, centre, size, colour, -1, cv2.LINE_AA)
    elif rng.random() < 0.5:
        corner = (centre[0] + int(width * rng.uniform(0.05, 0.4)), centre[1] + int(height * rng.uniform(0.05, 0.5)))
        cv2.rectangle(image, centre, corner, colour, -1)
    else:
        end = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        cv2.line(image, centre, end, colour, 1 + size // 3, cv2.LINE_AA)


def light_scene(
    image: np.ndarray, subject: np.ndarray, scene: Scene, head: Head, rng: np.random.Generator
) -> np.ndarray:
    """Shade the subject as a rounded body, add cast shadows, colour cast, exposure and vignette; float32."""
    height, width = image.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    u = (x - np.float32(head.centre[0])) / np.float32(head.scale)
    v = (y - np.float32(head.centre[1])) / np.float32(head.scale)
    depth = np.sqrt(np.clip(1.0 - (u / 1.05) ** 2 - (v / 1.3) ** 2, 0.05, 1.0))
    toward = np.array([*scene.light, 0.9])
    lamp = (toward / np.linalg.norm(toward)).astype(np.float32)
    facing = np.clip(u * lamp[0] + v * lamp[1] + depth * lamp[2], -0.3, 1.0)
    lit = (1 - scene.contrast) + scene.contrast * (0.25 + 1.05 * facing)
    lit *= _cast_shadow(image, scene, head, rng)
    on_subject = subject.astype(np.float32) / 255
    factor = 1 + on_subject * (lit - 1)
    corner = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) * 2
    factor *= (1 - scene.vignette * corner) * scene.exposure
    return image.astype(np.float32) * factor[..., None] * np.asarray(scene.cast, np.float32)


def _cast_shadow(image: np.ndarray, scene: Scene, head: Head, rng: np.random.Generator) -> np.ndarray:
    """1 where light falls, down to 0.35 in the shadow of something outside the picture."""
    mask = blank(image)
    if scene.shadow == "none":
        return np.ones(image.shape[:2], np.float32)
    if scene.shadow == "forehead":
        low = rng.uniform(-0.5, -0.12)
        tilt = rng.normal(0, 0.12)
        fill(mask, head.surface(np.array([[-1.5, -1.6], [1.5, -1.6], [1.5, low + tilt], [-1.5, low - tilt]])), 255)
    elif scene.shadow == "band":
        at, thick, slope = rng.uniform(-0.8, 0.8), rng.uniform(0.12, 0.4), rng.normal(0, 0.7)
        band = np.array(
            [[-2, at - 2 * slope], [2, at + 2 * slope], [2, at + 2 * slope + thick], [-2, at - 2 * slope + thick]]
        )
        fill(mask, head.outline(band), 255)
    else:
        side, edge = rng.choice([-1, 1]), rng.uniform(-0.1, 0.4)
        fill(
            mask,
            head.surface(np.array([[side * edge, -1.8], [side * 3, -1.8], [side * 3, 2.5], [side * edge, 2.5]])),
            255,
        )
    soft = soften(mask, rng.uniform(0.01, 0.12) * head.scale).astype(np.float32) / 255
    return 1 - soft * np.float32(rng.uniform(0.25, 0.65))


def develop(lit: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise, clipping; uint8."""
    if scene.blur > 0.3:
        lit = cv2.GaussianBlur(lit, (0, 0), scene.blur * lit.shape[0] / 128)
    grain = rng.standard_normal(lit.shape, dtype=np.float32) * np.float32(scene.noise)
    return np.clip(lit + grain + 0.5, 0, 255).astype(np.uint8)
