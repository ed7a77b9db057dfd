"""Hair behind the head, on the skull, and over the forehead; how much of the forehead the last one hides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_loader.demo_faces.canvas import (
    Head,
    blank,
    fill,
    mix,
    paint,
    shade,
    smooth_curve,
    smooth_noise,
    soften,
    stroke,
)
from data_loader.demo_faces.person import Fringe, Person

ABOVE_SKIN = 0.05  # hair lies this far (head units) in front of the forehead
STREAKS = 110
Lock = tuple[np.ndarray, float]  # centre line [N, 2] in face coordinates, half width at its root


def hairline_curve(person: Person) -> np.ndarray:
    """Where the forehead ends, from the left sideburn over the top to the right one, [N, 2] face coordinates."""
    half, high, back = person.half_width, person.hairline, person.receding
    if person.bald:
        high, back = 1.2, 1.0
    side = [
        (0.99 * half, person.sideburns),
        (0.95 * half, -0.12),
        (0.85 * half, -0.36 - 0.12 * back),
        (0.66 * half, -high + 0.05 - 0.16 * back),
        (0.38 * half, -high - 0.02 - 0.15 * back),
        (0.13 * half, -high - 0.10 * max(0.0, back - 0.4)),
    ]
    middle = (0.0, -high + person.widow_peak - 0.10 * max(0.0, back - 0.4))
    return smooth_curve([(-x, y) for x, y in side] + [middle] + side[::-1], steps=60)


def forehead(person: Person) -> np.ndarray:
    """The part of the face a label is about: between hairline and brows, [N, 2] face coordinates."""
    curve = hairline_curve(person)
    top = curve[np.abs(curve[:, 0]) < 0.64 * person.half_width]
    floor = person.brow_y - 0.03
    return np.concatenate([top, [[top[-1, 0], floor], [top[0, 0], floor]]])


def fringe_locks(person: Person, fringe: Fringe) -> list[Lock]:
    """The strands that fall from the hairline; the same fringe gives the same strands on every photo."""
    if person.bald:
        return []
    rng = np.random.default_rng(fringe.seed)
    curve = hairline_curve(person)
    half = person.half_width
    locks = []
    for root_x, tip_x, reach, width in _placement(fringe, rng):
        root_x, tip_x = root_x * half, tip_x * half
        root_y = float(np.interp(root_x, curve[:, 0], curve[:, 1]))
        reach = fringe.reach * reach * (1 + rng.normal(0, fringe.ragged))
        tip_y = root_y + reach * (person.brow_y + 0.02 - root_y)
        bend = rng.normal(0, 0.03) + 0.35 * (tip_x - root_x)
        middle = ((root_x + tip_x) / 2 - bend, root_y + 0.45 * (tip_y - root_y))
        line = smooth_curve([(root_x, root_y - 0.10), (root_x, root_y), middle, (tip_x, tip_y)], steps=12)
        along = np.linspace(0, 1, len(line))
        line[:, 0] += person.curl * 0.035 * np.sin(along * 9 + rng.uniform(0, 6)) * along
        locks.append((line, width * half))
    return locks


def _placement(fringe: Fringe, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """(root x, tip x, relative reach, half width) per strand, in half face widths."""
    places: list[tuple[float, float, float, float]] = []
    if fringe.style in ("full", "wispy"):
        count = int(rng.integers(9, 16))
        step = 1.7 / count
        width = step * (0.78 if fringe.style == "full" else 0.5)
        for at in -0.85 + step * (np.arange(count) + 0.5):
            if rng.random() < fringe.density:
                places.append((at, at + fringe.sweep + rng.normal(0, fringe.ragged), 1.0, width))
    elif fringe.style in ("side", "curtain"):
        main = -np.sign(fringe.part) if fringe.style == "side" else 0.0
        for toward in (-1.0, 1.0):
            for share in np.linspace(0.02, 1, 9):
                root = fringe.part + toward * share * max(0.1, 0.9 - toward * fringe.part)
                fall = 0.35 + 0.7 * share if toward == main or main == 0 else 0.12 + 0.3 * share
                spread = (0.75 if toward == main else 0.25) * (1.05 - share) + 0.05
                if rng.random() < fringe.density + 0.1:
                    places.append((root, root + toward * spread + rng.normal(0, 0.5 * fringe.ragged), fall, 0.13))
    elif fringe.style == "messy":
        for _ in range(int(rng.integers(6, 15))):
            at = rng.uniform(-0.75, 0.75)
            places.append((at, at + rng.normal(fringe.sweep, 0.22), rng.uniform(0.35, 1.1), rng.uniform(0.05, 0.12)))
    else:
        for _ in range(int(rng.integers(0, 4))):
            at = rng.uniform(-0.6, 0.6)
            places.append((at, at + rng.normal(0, 0.2), rng.uniform(0.3, 1.5), rng.uniform(0.02, 0.06)))
    return places


def lock_polygon(lock: Lock, head: Head) -> np.ndarray:
    """A tapered strand, [2N, 2] pixels."""
    line, half_width = lock
    along = np.linspace(0, 1, len(line))[:, None]
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    side = normal * half_width * (1 - along**3) + 1e-3
    return head.surface(np.concatenate([line + side, (line - side)[::-1]]), ABOVE_SKIN)


def skull(person: Person, grow: float, steps: int = 48) -> np.ndarray:
    """Upper half of the head's silhouette from left to right, `grow` outside the skin, [steps, 2]."""
    angle = np.linspace(np.pi, 0, steps)
    cos, sin = np.cos(angle), np.sin(angle)
    x = (person.half_width + 0.45 * grow + 0.01) * np.sign(cos) * np.abs(cos) ** 0.85
    return np.stack([x, -(1 + grow) * sin**0.95], axis=1)


def paint_back_hair(image: np.ndarray, mask: np.ndarray, person: Person, head: Head, rng: np.random.Generator) -> None:
    """Hair that hangs behind neck and ears; adds itself to `mask`."""
    if person.hair_length < 0.25:
        return
    low = -0.15 + 1.75 * person.hair_length
    half = person.half_width
    wide = half * (1.04 + 0.25 * person.volume + 0.28 * person.hair_length * rng.uniform(0.5, 1.0))
    arc = _curly(skull(person, person.volume), person, rng)
    right = smooth_curve([tuple(arc[-1]), (half * 1.12, 0.2), (wide, 0.6 * low), (wide * rng.uniform(0.8, 1), low)], 14)
    left = smooth_curve(
        [(-wide * rng.uniform(0.8, 1), low), (-wide, 0.6 * low), (-half * 1.12, 0.2), tuple(arc[0])], 14
    )
    drawn = blank(image)
    fill(drawn, head.outline(np.concatenate([arc, right, left])), 255)
    texture = np.empty_like(image)
    texture[:] = shade(person.hair, 0.72)
    for _ in range(55):
        x = rng.uniform(-1, 1)
        wave = person.curl * 0.06 * np.sin(np.linspace(0, 14, 12) + rng.uniform(0, 6))
        line = np.stack([np.linspace(x * half * 1.05, x * wide, 12) + wave, np.linspace(-0.7, low, 12)], axis=1)
        stroke(
            texture,
            head.outline(line),
            shade(person.hair, float(np.exp(rng.normal(-0.25, 0.25)))),
            float(rng.integers(1, 4)),
        )
    paint(image, drawn, texture)
    np.maximum(mask, drawn, out=mask)


def front_hair(
    image: np.ndarray, person: Person, fringe: Fringe, locks: list[Lock], head: Head, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (uint8, canvas size) of the hair on the skull and of the strands over the face."""
    cap, strands = blank(image), blank(image)
    if person.bald and (person.grey < 0.2 or person.age < 40):
        return cap, strands
    curve = hairline_curve(person)
    grow = 0.02 if person.bald else person.volume
    arc = _curly(skull(person, grow), person, rng)
    sides = np.array([[person.half_width * 1.0, person.sideburns], [-person.half_width * 1.0, person.sideburns]])
    fill(cap, head.outline(np.concatenate([arc, sides])), 255)
    face = np.concatenate([curve, [[1.6, 0.6], [1.6, 1.5], [-1.6, 1.5], [-1.6, 0.6]]])
    fill(cap, head.surface(face, 0.01), 0)
    if not person.bald and person.hair_length < 0.25:
        cap = soften(cap, 0.012 * head.scale)
    for lock in locks:
        fill(strands, lock_polygon(lock, head), round(255 * fringe.opacity))
    if person.hair_length > 0.6:
        for lock in _side_locks(person, rng):
            fill(strands, lock_polygon(lock, head), 255)
    return cap, strands


def _side_locks(person: Person, rng: np.random.Generator) -> list[Lock]:
    """Long hair that falls beside (and a little over) the cheeks."""
    half, low = person.half_width, -0.15 + 1.6 * person.hair_length
    locks: list[Lock] = []
    for side in (-1, 1):
        inner = rng.uniform(0.78, 1.02)
        for _ in range(4):
            x = side * half * rng.uniform(inner, 1.1)
            points = [
                (side * half * 0.7, -0.62),
                (side * half * 0.98, -0.3),
                (x * 1.06, 0.3),
                (x * rng.uniform(0.9, 1.2), low),
            ]
            line = smooth_curve(points, 16)
            line[:, 0] += person.curl * 0.05 * np.sin(np.linspace(0, 12, 16) + rng.uniform(0, 6))
            locks.append((line, 0.11))
    return locks


def hair_texture(
    image: np.ndarray, person: Person, locks: list[Lock], head: Head, rng: np.random.Generator
) -> np.ndarray:
    """A picture of streaks that follow the hair, canvas size; shown through the masks of `front_hair`."""
    mottle = 1 + 0.12 * smooth_noise(rng, image.shape[:2], 12)
    texture = np.clip(mottle[..., None] * np.asarray(person.hair, np.float32), 0, 255).astype(np.uint8)
    arc = skull(person, person.volume + 0.03)
    ends = arc[rng.integers(len(arc), size=STREAKS)] * rng.uniform(0.55, 1.0, (STREAKS, 1))
    crown = np.broadcast_to((person.fringe.part * person.half_width, -0.98), ends.shape)
    middle = (crown + ends) / 2 - np.stack([np.zeros(STREAKS), 0.16 * np.abs(ends - crown)[:, 0]], axis=1)
    lines = smooth_curve(np.stack([crown, middle, ends + np.array([0.0, 0.05])], axis=1), 8)
    lines = lines + rng.normal(0, 0.012 + 0.03 * person.curl, lines.shape)
    for line in head.outline(lines.reshape(-1, 2), 0.6).reshape(lines.shape):
        stroke(texture, line, _streak(person, rng), float(rng.integers(1, 3)))
    for line, half_width in locks:
        for offset in rng.uniform(-0.9, 0.9, 5) * half_width:
            stroke(texture, head.surface(line + np.array([offset, 0.0]), ABOVE_SKIN), _streak(person, rng))
    return texture


def coverage(person: Person, fringe: Fringe, locks: list[Lock], head: Head) -> float:
    """The share of the forehead that the strands hide, 0..1.

    Measured on a canvas of its own: antialiased edges are a pixel wide, so the photo's size would decide labels.
    """
    strands = np.zeros((256, 256), np.uint8)
    region = np.zeros_like(strands)
    measured = replace(head, scale=100.0, centre=(128.0, 128.0))
    fill(region, measured.surface(forehead(person)), 255)
    for lock in locks:
        fill(strands, lock_polygon(lock, measured), round(255 * fringe.opacity))
    weight = region.astype(np.float64)
    return float((weight * strands).sum() / (255 * weight.sum()))


def _streak(person: Person, rng: np.random.Generator) -> tuple[float, float, float]:
    colour = shade(person.hair, float(np.exp(rng.normal(0.0, 0.28))))
    glint = max(0.0, rng.normal(0, 0.07))
    return mix(colour, (230.0, 235.0, 240.0), glint)


def _curly(arc: np.ndarray, person: Person, rng: np.random.Generator) -> np.ndarray:
    """Bumps on the silhouette of curly or thick hair."""
    bumps = 1 + (0.008 + 0.06 * person.curl) * np.convolve(rng.normal(0, 1, len(arc) + 2), np.ones(3) / 2, mode="valid")
    return arc * np.stack([0.5 + 0.5 * bumps, bumps], axis=1)
