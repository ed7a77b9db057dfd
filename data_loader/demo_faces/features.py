"""Everything on the skin: face, ears, eyes, brows, nose, mouth, beard, wrinkles."""

from __future__ import annotations

import numpy as np

from data_loader.demo_faces.canvas import Head, blank, ellipse, fill, mix, paint, shade, smooth_curve, soften, stroke
from data_loader.demo_faces.hair import skull
from data_loader.demo_faces.person import Person, Scene

BLACK = (12.0, 10.0, 10.0)


def face_outline(person: Person, head: Head) -> np.ndarray:
    """Silhouette of skull and jaw, [N, 2] pixels."""
    down = np.sin(np.linspace(0, np.pi / 2, 26))[1:]
    width = person.half_width * np.sqrt(np.clip(1 - down**person.jaw, 0, 1)) * (1 - person.taper * down)
    right = np.stack([width, down], axis=1)
    points = np.concatenate([skull(person, 0.0), right, right[::-1] * (-1, 1)])
    return head.outline(points, 0.75 * np.clip(points[:, 1], 0, 1) ** 1.3)


def paint_skin(image: np.ndarray, person: Person, head: Head, rng: np.random.Generator) -> np.ndarray:
    """Ears, face, blush; returns the face's mask."""
    for side in (-1, 1):
        reach = person.half_width + 0.3 * person.ears - 0.3 * max(0.0, side * np.sin(head.yaw))
        ear = head.outline(ellipse((side * reach, 0.12), (person.ears, 0.17), 0.15 * side))
        inner = head.outline(ellipse((side * (reach + 0.02), 0.12), (0.5 * person.ears, 0.1), 0.15 * side))
        fill(image, ear, shade(person.skin, 0.93))
        fill(image, inner, shade(person.skin, 0.74))
    face = blank(image)
    fill(face, face_outline(person, head), 255)
    paint(image, face, person.skin)
    for side in (-1, 1):
        cheek = blank(image)
        fill(cheek, head.surface(ellipse((side * 0.42, 0.36), (0.2, 0.16))), 255)
        paint(image, soften(cheek, 0.08 * head.scale), mix(person.skin, (90, 80, 215), 0.5), person.blush)
        temple = blank(image)
        fill(temple, head.surface(ellipse((side * 0.34, 0.02), (0.22, 0.13))), 255)
        paint(image, soften(temple, 0.06 * head.scale), shade(person.skin, 0.72), 0.55)
    return face


def paint_beard(image: np.ndarray, face: np.ndarray, person: Person, head: Head, rng: np.random.Generator) -> None:
    """Stubble, moustache, goatee or full beard."""
    if person.beard == "none":
        return
    half, lip, wide = person.half_width, person.mouth_y, person.mouth_width
    drawn = blank(image)
    if person.beard in ("full", "stubble"):
        upper = smooth_curve([(-half, 0.12), (-0.85 * half, 0.45), (-0.5 * half, lip - 0.12), (0, lip - 0.13)], 14)
        jaw = np.array([[1.2, 0.1], [1.2, 1.4], [-1.2, 1.4], [-1.2, 0.1]]) * (half, 1)
        fill(drawn, head.surface(np.concatenate([upper, upper[::-1] * (-1, 1), jaw])), 255)
    if person.beard == "goatee":
        fill(drawn, head.surface(ellipse((0, lip + 0.17), (0.75 * wide, 0.25))), 255)
    if person.beard in ("goatee", "moustache"):
        arch = [(-1.1 * wide, lip + 0.06), (-0.7 * wide, lip - 0.10), (0, lip - 0.15), (0.7 * wide, lip - 0.10)]
        low = [(1.1 * wide, lip + 0.06), (0.5 * wide, lip - 0.03), (0, lip - 0.06), (-0.5 * wide, lip - 0.03)]
        fill(drawn, head.surface(np.array(arch + low)), 255)
    drawn = np.minimum(soften(drawn, 0.025 * head.scale), face)
    colour = shade(person.hair, 0.85)
    texture = np.empty_like(image)
    texture[:] = colour
    speckle = rng.normal(1, 0.22, image.shape[:2])[..., None]
    texture = np.clip(texture * speckle, 0, 255).astype(np.uint8)
    strength = 0.3 * person.beard_strength if person.beard == "stubble" else 0.45 + 0.5 * person.beard_strength
    paint(image, drawn, texture, strength)


def paint_eyes(image: np.ndarray, person: Person, scene: Scene, head: Head) -> None:
    """Whites, irises, pupils, lids and lashes."""
    open_ = person.eye_open * (1 - 0.25 * max(0.0, scene.smile))
    for side in (-1, 1):
        centre = (side * person.eye_gap, 0.0)
        size = person.eye_size
        tilt = side * -person.eye_tilt
        shape = ellipse((0, 0), (size, size * open_), 0.0, 28)
        shape[:, 1] *= np.where(shape[:, 1] > 0, 0.8, 1.15)
        shape = shape @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) + centre
        white = blank(image)
        fill(white, head.surface(shape), 255)
        paint(image, white, mix((232, 234, 236), person.skin, 0.12))
        look = (centre[0] + 0.35 * size * scene.gaze[0], 0.35 * size * scene.gaze[1])
        ball = blank(image)
        fill(ball, head.surface(ellipse(look, (0.46 * size, 0.46 * size))), 255)
        ball = np.minimum(ball, white)
        paint(image, ball, person.iris)
        pupil = blank(image)
        fill(pupil, head.surface(ellipse(look, (0.2 * size, 0.2 * size))), 255)
        paint(image, np.minimum(pupil, white), BLACK)
        fill(
            image,
            head.surface(ellipse((look[0] + 0.12 * size, look[1] - 0.14 * size), (0.06 * size, 0.06 * size))),
            (250, 250, 250),
        )
        upper = shape[14:] if len(shape) == 28 else shape
        lash = BLACK if not person.male else shade(person.skin, 0.35)
        stroke(image, head.surface(upper), lash, (0.02 if person.male else 0.032) * head.scale)
        stroke(
            image,
            head.surface(upper * (1.02, 1) - (0.02 * side * person.eye_gap, 0.05)),
            shade(person.skin, 0.62),
            0.012 * head.scale,
        )
        bag = smooth_curve([(centre[0] - 0.8 * size, 0.09), (centre[0], 0.15), (centre[0] + 0.8 * size, 0.09)], 8)
        stroke(
            image,
            head.surface(bag),
            mix(person.skin, shade(person.skin, 0.6), 0.3 + 0.6 * person.wrinkles),
            0.014 * head.scale,
        )


def brow_masks(image: np.ndarray, person: Person, scene: Scene, head: Head) -> tuple[np.ndarray, np.ndarray]:
    """(subject's left, subject's right) brow; the subject's left is on the image's right."""
    masks = []
    for side in (1, -1):
        x, y = person.eye_gap, person.brow_y - 0.03 * max(0.0, scene.mouth_open)
        inner, outer = x - 1.15 * person.eye_size, x + 1.25 * person.eye_size
        top = [
            (inner, y + 0.02 + person.brow_slope),
            (x + 0.03, y - person.brow_arch),
            (outer, y + 0.04 - person.brow_slope),
        ]
        line = smooth_curve(top, 12) * (side, 1)
        thick = person.brow_width * np.linspace(1.0, 0.35, 12)[:, None] * np.array([[0.0, 1.0]])
        mask = blank(image)
        fill(mask, head.surface(np.concatenate([line - thick / 2, (line + thick / 2)[::-1]])), 255)
        masks.append(mask)
    return masks[0], masks[1]


def paint_brows(image: np.ndarray, masks: tuple[np.ndarray, np.ndarray], person: Person) -> None:
    """Brows keep more of their colour than greying hair does."""
    colour = mix(shade(person.hair, 0.75), shade(person.skin, 0.45), 0.35)
    for mask in masks:
        paint(image, mask, colour, 0.9)


def paint_nose(image: np.ndarray, person: Person, head: Head) -> None:
    """A shaded side, the wings and the nostrils."""
    low, wide = person.nose_length, person.nose_width
    ridge = blank(image)
    fill(
        ridge,
        head.surface(np.array([[-0.045, -0.08], [0.045, -0.08], [0.7 * wide, low], [-0.7 * wide, low]]), 0.06),
        255,
    )
    paint(image, soften(ridge, 0.04 * head.scale), shade(person.skin, 1.12), 0.6)
    toward = -np.sign(head.yaw) if head.yaw else 1.0
    side = smooth_curve(
        [(toward * 0.07, -0.1), (toward * 0.08, 0.15), (toward * wide, low - 0.06), (toward * 0.95 * wide, low)], 12
    )
    stroke(image, head.surface(side, 0.04), shade(person.skin, 0.76), 0.022 * head.scale)
    base = smooth_curve(
        [(-wide, low - 0.05), (-0.8 * wide, low + 0.03), (0, low + 0.05), (0.8 * wide, low + 0.03), (wide, low - 0.05)],
        16,
    )
    stroke(image, head.surface(base, 0.05), shade(person.skin, 0.6), 0.02 * head.scale)
    for at in (-0.42, 0.42):
        fill(
            image, head.surface(ellipse((at * wide, low + 0.01), (0.22 * wide, 0.022)), 0.06), shade(person.skin, 0.35)
        )


def paint_mouth(image: np.ndarray, person: Person, scene: Scene, head: Head) -> None:
    """Lips, teeth when open, corners up or down with the smile."""
    y, smile = person.mouth_y, scene.smile
    wide = person.mouth_width * (1 + 0.18 * max(0.0, smile))
    corner = y - 0.06 * smile
    gap = 0.09 * scene.mouth_open
    lips = mix(mix(person.skin, (95, 85, 165), 0.42), (60, 40, 190), 0.6 * person.lipstick)
    upper = smooth_curve(
        [
            (-wide, corner),
            (-0.4 * wide, y - person.lips),
            (0, y - 0.7 * person.lips),
            (0.4 * wide, y - person.lips),
            (wide, corner),
        ],
        18,
    )
    lower = smooth_curve(
        [(-wide, corner), (-0.5 * wide, y + gap + person.lips), (0.5 * wide, y + gap + person.lips), (wide, corner)], 18
    )
    fill(image, head.surface(np.concatenate([upper, lower[::-1]]), 0.02), lips)
    inner_up = smooth_curve([(-0.85 * wide, corner + 0.005), (0, y + 0.01), (0.85 * wide, corner + 0.005)], 14)
    inner_low = smooth_curve(
        [(-0.85 * wide, corner + 0.005), (0, y + 0.015 + 1.9 * gap), (0.85 * wide, corner + 0.005)], 14
    )
    if gap > 0.015:
        fill(image, head.surface(np.concatenate([inner_up, inner_low[::-1]]), 0.02), (35, 25, 60))
        teeth = np.concatenate([inner_up * (0.9, 1), ((inner_up + inner_low) / 2)[::-1] * (0.9, 1)])
        fill(image, head.surface(teeth, 0.02), (225, 230, 235))
    else:
        stroke(image, head.surface(inner_up, 0.02), shade(lips, 0.5), 0.016 * head.scale)


def paint_wrinkles(image: np.ndarray, person: Person, scene: Scene, head: Head, rng: np.random.Generator) -> None:
    """Lines on forehead, beside the eyes and from nose to mouth."""
    if person.wrinkles < 0.05:
        return
    ink = mix(person.skin, shade(person.skin, 0.55), 0.25 + 0.75 * person.wrinkles)
    width = (0.008 + 0.014 * person.wrinkles) * head.scale
    for row in range(round(1 + 3.4 * person.wrinkles)):
        y = person.brow_y - 0.11 - 0.085 * row
        wave = [(-0.36, y + 0.02), (-0.15, y - 0.02 + rng.normal(0, 0.008)), (0.15, y - 0.02), (0.36, y + 0.02)]
        stroke(image, head.surface(smooth_curve(wave, 12)), ink, width)
    for side in (-1, 1):
        wing, corner = side * person.nose_width * 1.15, side * person.mouth_width * 1.2
        fold = [(wing, person.nose_length), (0.6 * wing + 0.6 * corner, 0.52), (corner, person.mouth_y + 0.05)]
        stroke(image, head.surface(smooth_curve(fold, 10), 0.02), ink, width)
        eye = side * (person.eye_gap + 1.1 * person.eye_size)
        for slant in (-0.04, 0.0, 0.045):
            if person.wrinkles > 0.35:
                crow = np.array([[eye, 0.6 * slant], [eye + side * 0.09, 1.6 * slant]])
                stroke(image, head.surface(crow), ink, width)
