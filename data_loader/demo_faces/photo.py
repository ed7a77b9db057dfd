"""One photo of one person: the drawing from back to front."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from data_loader.demo_faces import features, hair, light, wear
from data_loader.demo_faces.canvas import Head, blank, paint, soften
from data_loader.demo_faces.person import Person, Scene

SUPERSAMPLING = 2
VISIBLE_SHARE = 0.0004  # of the mask's pixels; smaller parts count as hidden


@dataclass(frozen=True)
class Photo:
    """`image` [H, W, 3] BGR uint8; `parts` name -> mask [H/2, W/2] uint8 0/255; `coverage` of the forehead, 0..1."""

    image: np.ndarray
    parts: dict[str, np.ndarray]
    coverage: float


def take_photo(person: Person, scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Photo:
    """Draw a photo of `size` (height, width) pixels."""
    height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    head = place_head(person, scene, height, width)
    image = np.empty((height, width, 3), np.uint8)
    light.paint_background(image, scene, person, rng)
    empty = image.copy()

    hair_mask = blank(image)
    hair.paint_back_hair(image, hair_mask, person, head, rng)
    wear.paint_body(image, person, scene, head, rng)
    face = features.paint_skin(image, person, head, rng)
    hair_mask = np.minimum(hair_mask, 255 - face)
    brows = _paint_features(image, face, person, scene, head, rng)

    locks = hair.fringe_locks(person, scene.fringe)
    cap, strands = hair.front_hair(image, person, scene.fringe, locks, head, rng)
    front = np.maximum(cap, strands)
    shadow = np.minimum(soften(np.roll(front, round(0.05 * head.scale), axis=0), 0.03 * head.scale), face)
    paint(image, shadow, (15, 12, 20), 0.3)
    paint(image, front, hair.hair_texture(image, person, locks, head, rng))
    if scene.headband:
        wear.paint_headband(image, person, head, rng)
    glasses = wear.paint_glasses(image, scene, person, head, rng)
    hat = wear.paint_hat(image, scene, person, head, rng)

    small = replace(
        head, scale=head.scale / SUPERSAMPLING, centre=(head.centre[0] / SUPERSAMPLING, head.centre[1] / SUPERSAMPLING)
    )
    lit = light.light_scene(_reduce(image, size), _reduce(_difference(image, empty), size), scene, small, rng)
    uncovered = 255 - np.maximum(front, hat)
    parts = {
        "hair": np.minimum(np.maximum(hair_mask, front), 255 - hat),
        "skin": np.minimum(face, uncovered),
        "l_brow": np.minimum(brows[0], uncovered),
        "r_brow": np.minimum(brows[1], uncovered),
        "eye_g": glasses,
        "hat": hat,
    }
    return Photo(
        light.develop(lit, scene, rng), _visible(parts, size), hair.coverage(person, scene.fringe, locks, head)
    )


def _reduce(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To (height, width), every pixel the mean of those it stands for."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def place_head(person: Person, scene: Scene, height: int, width: int) -> Head:
    """Where the head is on a canvas of the given size in pixels."""
    side = min(height, width)
    return Head(
        half_width=person.half_width,
        depth=person.depth,
        yaw=scene.yaw,
        pitch=scene.pitch,
        roll=scene.roll,
        scale=0.40 * side * scene.zoom,
        centre=(width * (0.5 + scene.shift[0]), height * (0.5 + scene.shift[1])),
    )


def _paint_features(
    image: np.ndarray, face: np.ndarray, person: Person, scene: Scene, head: Head, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The face from skin to mouth-nose mask; returns the brows' masks."""
    features.paint_wrinkles(image, person, scene, head, rng)
    features.paint_beard(image, face, person, head, rng)
    features.paint_nose(image, person, head)
    features.paint_mouth(image, person, scene, head)
    features.paint_eyes(image, person, scene, head)
    brows = features.brow_masks(image, person, scene, head)
    features.paint_brows(image, brows, person)
    if person.earrings:
        wear.paint_earrings(image, person, head)
    wear.paint_face_mask(image, scene, person, head, rng)
    return brows


def _difference(image: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Where something was drawn over the background, filled outlines."""
    changed = (cv2.absdiff(image, empty).max(axis=2) > 0).astype(np.uint8) * 255
    return np.asarray(cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)), dtype=np.uint8)


def _visible(parts: dict[str, np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Masks at half the photo's size; a part of which nothing can be seen is left out, as in CelebAMask-HQ."""
    half = (size[0] // 2, size[1] // 2)
    small = {name: _reduce(mask, half) for name, mask in parts.items()}
    binary = {name: np.where(mask > 127, 255, 0).astype(np.uint8) for name, mask in small.items()}
    return {name: mask for name, mask in binary.items() if np.count_nonzero(mask) >= max(2, VISIBLE_SHARE * mask.size)}
