"""What people put on: clothes, glasses, hats, head bands, earrings, face masks."""

from __future__ import annotations

import numpy as np

from data_loader.demo_faces.canvas import Head, blank, ellipse, fill, mix, paint, shade, smooth_curve, soften, stroke
from data_loader.demo_faces.hair import skull
from data_loader.demo_faces.person import Person, Scene

MASK_COLOURS = [(238, 236, 232), (222, 190, 140), (38, 36, 36), (200, 205, 215), (150, 160, 120)]


def random_colour(rng: np.random.Generator, low: float = 15, high: float = 245) -> tuple[float, float, float]:
    """Any BGR colour, often a muted one."""
    grey = rng.uniform(low, high)
    vivid = rng.uniform(low, high, 3)
    share = rng.uniform(0, 1)
    return mix((grey, grey, grey), (float(vivid[0]), float(vivid[1]), float(vivid[2])), share)


def paint_body(image: np.ndarray, person: Person, scene: Scene, head: Head, rng: np.random.Generator) -> None:
    """Neck, shoulders, collar; necktie and necklace."""
    width = person.half_width * (0.74 if person.male else 0.6)
    neck = np.array([[-width, 0.3], [width, 0.3], [width * 1.05, 1.7], [-width * 1.05, 1.7]])
    fill(image, head.outline(neck, 0.1), shade(person.skin, 0.8))
    cloth = random_colour(rng)
    low, broad = rng.uniform(1.15, 1.35), (2.0 if person.male else 1.65) * rng.uniform(0.9, 1.1)
    depth = rng.uniform(0.05, 0.5)
    left = [(-broad, 3.2), (-broad, low + 0.45), (-0.8 * broad, low + 0.2), (-width * 1.1, low)]
    right = [(-x, y) for x, y in left[::-1]]
    outline = smooth_curve([*left, (0.0, low + depth), *right], 40)
    fill(image, head.outline(outline), cloth)
    if rng.random() < 0.4:
        collar = shade(cloth, 1.35) if sum(cloth) < 400 else shade(cloth, 0.6)
        stroke(image, head.outline(outline[12:28]), collar, 0.07 * head.scale)
    if scene.necktie:
        tie = np.array(
            [
                [-0.09, low + depth * 0.6],
                [0.09, low + depth * 0.6],
                [0.06, low + 0.3],
                [0.16, 3.0],
                [-0.16, 3.0],
                [-0.06, low + 0.3],
            ]
        )
        fill(image, head.outline(tie), random_colour(rng))
    if scene.necklace:
        chain = smooth_curve([(-width * 0.95, 1.05), (-0.25, 1.3), (0.25, 1.3), (width * 0.95, 1.05)], 16)
        stroke(image, head.outline(chain), (120, 200, 225), 0.03 * head.scale)


def paint_earrings(image: np.ndarray, person: Person, head: Head) -> None:
    """One below each ear."""
    for side in (-1, 1):
        at = side * (person.half_width + 0.02 - 0.3 * max(0.0, side * np.sin(head.yaw)))
        fill(image, head.outline(ellipse((at, 0.36), (0.045, 0.07))), (130, 215, 235))


def paint_glasses(image: np.ndarray, scene: Scene, person: Person, head: Head, rng: np.random.Generator) -> np.ndarray:
    """Rims, lenses and temples; returns the mask of what they cover."""
    mask = blank(image)
    if scene.glasses == "none":
        return mask
    frame = (25.0, 22.0, 22.0) if rng.random() < 0.6 else random_colour(rng, 20, 170)
    width = {"rim": 0.025, "thick": 0.055, "sun": 0.04}[scene.glasses] * head.scale
    square = rng.random() < 0.5
    half = (person.eye_gap * 0.86, rng.uniform(0.15, 0.23))
    lens = blank(image)
    for side in (-1, 1):
        shape = ellipse((0, 0), (1, 1), 0.0, 28)
        if square:
            shape = np.sign(shape) * np.abs(shape) ** 0.45
        outline = head.surface(shape * half + (side * person.eye_gap, 0.03), 0.08)
        fill(lens, outline, 255)
        stroke(mask, outline, 255, width, closed=True)
        arm = np.array([[side * (person.eye_gap + half[0]), 0.0], [side * person.half_width, -0.02]])
        stroke(mask, head.surface(arm, 0.05), 255, 0.8 * width)
    bridge = np.array([[-(person.eye_gap - half[0]), 0.0], [0, -0.03], [person.eye_gap - half[0], 0.0]])
    stroke(mask, head.surface(bridge, 0.1), 255, width)
    tint = (28.0, 24.0, 24.0) if scene.glasses == "sun" else (235.0, 235.0, 235.0)
    paint(image, lens, tint, 0.85 if scene.glasses == "sun" else 0.10)
    paint(image, mask, frame)
    return np.maximum(mask, lens)


def paint_hat(image: np.ndarray, scene: Scene, person: Person, head: Head, rng: np.random.Generator) -> np.ndarray:
    """Cap, beanie or brimmed hat; returns its mask."""
    mask = blank(image)
    if scene.hat == "none":
        return mask
    edge = -rng.uniform(0.3, 0.5)
    colour = random_colour(rng)
    crown = skull(person, person.volume * 0.6 + rng.uniform(0.08, 0.25))
    crown = crown[crown[:, 1] < edge + 0.1]
    half = 1.06 * person.half_width
    band = smooth_curve(
        [(half, edge + 0.1), (0.5 * half, edge - 0.02), (-0.5 * half, edge - 0.02), (-half, edge + 0.1)], 20
    )
    fill(mask, np.concatenate([head.outline(crown), head.surface(band, 0.1)]), 255)
    if scene.hat != "beanie":
        wide, drop = (1.15, 0.16) if scene.hat == "cap" else (1.75, 0.06)
        brim = ellipse((0.25 * np.sin(head.yaw), edge + 0.02), (wide * half, drop), 0.0)
        fill(mask, head.surface(brim * (0.8, 1), 0.3) if scene.hat == "cap" else head.outline(brim, 0.8), 255)
    paint(image, soften(np.roll(mask, round(0.07 * head.scale), axis=0), 0.06 * head.scale), (10, 10, 10), 0.35)
    texture = np.clip(np.asarray(colour) * rng.normal(1, 0.05, image.shape[:2])[..., None], 0, 255).astype(np.uint8)
    paint(image, mask, texture)
    stroke(image, head.surface(band, 0.1), shade(colour, 0.6), 0.05 * head.scale)
    return mask


def paint_headband(image: np.ndarray, person: Person, head: Head, rng: np.random.Generator) -> None:
    """A cloth band somewhere between hairline and mid forehead."""
    top = -rng.uniform(0.48, 0.72)
    thick = rng.uniform(0.06, 0.14)
    half = 1.02 * person.half_width
    upper = smooth_curve([(-half, top + 0.2), (-0.6 * half, top), (0.6 * half, top), (half, top + 0.2)], 20)
    mask = blank(image)
    fill(mask, head.surface(np.concatenate([upper, upper[::-1] + np.array([0.0, thick])]), 0.06), 255)
    paint(image, mask, random_colour(rng))


def paint_face_mask(image: np.ndarray, scene: Scene, person: Person, head: Head, rng: np.random.Generator) -> None:
    """A mouth-nose mask, worn right or under the nose, on the chin."""
    if scene.mask == "none":
        return
    top = {"worn": 0.2, "below nose": person.nose_length + 0.1, "chin": person.mouth_y + 0.12}[scene.mask]
    low, half = 1.02, person.half_width
    colour = MASK_COLOURS[int(rng.integers(len(MASK_COLOURS)))]
    upper = smooth_curve(
        [
            (-0.92 * half, top + 0.1),
            (-0.5 * half, top + 0.03),
            (0, top - 0.08),
            (0.5 * half, top + 0.03),
            (0.92 * half, top + 0.1),
        ],
        20,
    )
    lower = smooth_curve(
        [(0.88 * half, 0.66), (0.62 * half, low), (0.0, low + 0.1), (-0.62 * half, low), (-0.88 * half, 0.66)], 20
    )
    shape = blank(image)
    fill(shape, head.surface(np.concatenate([upper, lower]), 0.05), 255)
    for side in (-1, 1):
        for y in (top + 0.12, 0.68):
            loop = np.array([[side * 0.9 * half, y], [side * (half + 0.5 * person.ears), 0.12 if y < 0.6 else 0.26]])
            stroke(image, head.outline(loop, 0.1), shade(colour, 0.85), 0.02 * head.scale)
    paint(image, shape, colour)
    for pleat in np.linspace(top + 0.16, low - 0.12, 4):
        line = np.array([[-0.7 * half, pleat - 0.03], [0, pleat + 0.03], [0.7 * half, pleat - 0.03]])
        stroke(
            image,
            head.surface(smooth_curve([(p[0], p[1]) for p in line], 10), 0.06),
            shade(colour, 0.82),
            0.012 * head.scale,
        )
