"""Who is on the picture (a person: the same on all of their photos) and how it was taken (a scene)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data_loader.demo_faces.canvas import Colour, mix, shade

SKIN_RAMP = [
    (255, 226, 205),
    (243, 198, 166),
    (226, 176, 130),
    (198, 136, 94),
    (142, 88, 56),
    (94, 60, 42),
    (62, 42, 32),
]
HAIR_COLOURS = {  # RGB, share among the young
    "black": ((28, 24, 24), 0.32),
    "dark brown": ((54, 38, 30), 0.22),
    "brown": ((98, 66, 42), 0.18),
    "light brown": ((146, 106, 70), 0.10),
    "blond": ((214, 180, 120), 0.11),
    "red": ((152, 72, 36), 0.04),
    "dyed": ((110, 90, 140), 0.03),
}
FRINGES = ("up", "side", "curtain", "messy", "wispy", "full")


@dataclass(frozen=True)
class Fringe:
    """The hair over the forehead. `reach` 1 means down to the brows, `density` 1 leaves no gaps."""

    style: str
    reach: float
    density: float
    opacity: float
    part: float
    sweep: float
    ragged: float
    seed: int


@dataclass(frozen=True)
class Person:
    """Lengths are in half head heights, colours BGR."""

    male: bool
    age: int
    skin: Colour
    hair_name: str
    hair: Colour
    grey: float
    half_width: float
    jaw: float
    taper: float
    depth: float
    ears: float
    brow_y: float
    brow_width: float
    brow_arch: float
    brow_slope: float
    eye_size: float
    eye_gap: float
    eye_open: float
    eye_tilt: float
    iris: Colour
    nose_width: float
    nose_length: float
    mouth_y: float
    mouth_width: float
    lips: float
    lipstick: float
    blush: float
    hairline: float
    receding: float
    widow_peak: float
    volume: float
    curl: float
    hair_length: float
    sideburns: float
    bald: bool
    beard: str
    beard_strength: float
    wrinkles: float
    wears_glasses: bool
    earrings: bool
    fringe: Fringe


@dataclass(frozen=True)
class Scene:
    """Pose (radians), expression, things worn today, light and camera."""

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: tuple[float, float]
    smile: float
    mouth_open: float
    gaze: tuple[float, float]
    fringe: Fringe
    glasses: str
    hat: str
    headband: bool
    necktie: bool
    necklace: bool
    mask: str
    exposure: float
    light: tuple[float, float]
    contrast: float
    cast: Colour
    vignette: float
    shadow: str
    background: str
    blur: float
    noise: float
    jpeg_quality: int


def sample_person(rng: np.random.Generator, male: bool | None = None, age: int | None = None) -> Person:
    """A random identity; `male`, `age` (years) fix what the caller has already decided."""
    male = bool(rng.random() < 0.6) if male is None else male
    age = round(float(np.clip(rng.gamma(6.0, 6.3), 18, 78))) if age is None else age
    years = (age - 18) / 60
    skin = _skin(rng)
    hair_name, hair, grey = _hair_colour(rng, skin, age)
    bald = male and bool(rng.random() < 0.02 + 0.16 * years)
    receding = float(np.clip(rng.normal(0.12 + 0.55 * years, 0.18), 0, 1)) if male else float(rng.uniform(0, 0.15))
    length = rng.choice([0.1, 0.4, 0.75, 1.0], p=[0.62, 0.22, 0.1, 0.06] if male else [0.06, 0.14, 0.4, 0.4])
    beard = str(rng.choice(["none", "stubble", "moustache", "goatee", "full"], p=[0.5, 0.2, 0.06, 0.1, 0.14]))
    return Person(
        male=male,
        age=age,
        skin=skin,
        hair_name=hair_name,
        hair=hair,
        grey=grey,
        half_width=float(rng.normal(0.735 if male else 0.70, 0.035)),
        jaw=float(rng.normal(2.9 if male else 2.35, 0.3)),
        taper=float(rng.uniform(0.02, 0.2) + (0.0 if male else 0.06)),
        depth=float(rng.uniform(0.62, 0.8)),
        ears=float(rng.uniform(0.07, 0.13)),
        brow_y=float(rng.normal(-0.19 if male else -0.23, 0.035)),
        brow_width=float(rng.uniform(0.035, 0.085) if male else rng.uniform(0.02, 0.05)),
        brow_arch=float(rng.uniform(0.0, 0.05) if male else rng.uniform(0.02, 0.09)),
        brow_slope=float(rng.normal(0, 0.03)),
        eye_size=float(rng.normal(0.155 if male else 0.17, 0.012)),
        eye_gap=float(rng.normal(0.315, 0.018)),
        eye_open=float(rng.uniform(0.34, 0.6) + (0 if male else 0.06)),
        eye_tilt=float(rng.normal(0, 0.08)),
        iris=_iris(rng, skin),
        nose_width=float(rng.normal(0.155 if male else 0.13, 0.025)),
        nose_length=float(rng.normal(0.42, 0.035)),
        mouth_y=float(rng.normal(0.635, 0.025)),
        mouth_width=float(rng.normal(0.27, 0.03)),
        lips=float(rng.uniform(0.03, 0.08) if male else rng.uniform(0.045, 0.1)),
        lipstick=0.0 if male or rng.random() < 0.35 else float(rng.uniform(0.3, 1.0)),
        blush=float(rng.uniform(0, 0.12) if male else rng.uniform(0, 0.35)),
        hairline=float(np.clip(rng.normal(0.63 if male else 0.60, 0.055) + 0.06 * receding, 0.48, 0.8)),
        receding=receding,
        widow_peak=float(rng.choice([0.0, rng.uniform(0.02, 0.1)])),
        volume=float(rng.uniform(0.03, 0.16) if male else rng.uniform(0.06, 0.2)) * (1 - 0.5 * years),
        curl=float(np.clip(rng.choice([rng.uniform(0, 0.15), rng.uniform(0.2, 1.0)], p=[0.65, 0.35]), 0, 1)),
        hair_length=float(length + rng.uniform(-0.06, 0.06)) * (0.0 if bald else 1.0),
        sideburns=float(rng.uniform(0.0, 0.28) if male else rng.uniform(-0.05, 0.1)),
        bald=bald,
        beard=beard if male else "none",
        beard_strength=float(rng.uniform(0.5, 1.0)),
        wrinkles=float(np.clip(rng.normal((age - 32) / 34, 0.13), 0, 1)),
        wears_glasses=bool(rng.random() < (0.14 if male else 0.07) + 0.18 * years),
        earrings=(not male) and bool(rng.random() < 0.3),
        fringe=_fringe(rng, male, bald, receding),
    )


def sample_scene(rng: np.random.Generator, person: Person, hats: bool = True) -> Scene:
    """A random photo of the person, without a face mask."""
    style = person.fringe.style
    sparse = style == "up" or person.bald
    worn = "none"
    if hats and rng.random() < (0.07 if person.male else 0.04):
        worn = str(rng.choice(["cap", "beanie", "brim"]))
    glasses = str(rng.choice(["rim", "thick", "sun"], p=[0.5, 0.3, 0.2])) if person.wears_glasses else "none"
    fringe = replace(
        person.fringe,
        reach=float(person.fringe.reach * rng.normal(1.0, 0.04)),
        sweep=float(person.fringe.sweep + rng.normal(0, 0.03)),
    )
    return Scene(
        yaw=float(np.clip(rng.normal(0, 0.17), -0.45, 0.45)),
        pitch=float(np.clip(rng.normal(0, 0.09), -0.22, 0.22)),
        roll=float(rng.normal(0, 0.06)),
        zoom=float(rng.uniform(0.92, 1.1)),
        shift=(float(rng.normal(0, 0.02)), float(rng.normal(0.03, 0.015))),
        smile=float(rng.uniform(-0.25, 1.0)),
        mouth_open=float(max(0.0, rng.uniform(-0.8, 1.0))),
        gaze=(float(rng.normal(0, 0.25)), float(rng.normal(0, 0.12))),
        fringe=fringe,
        glasses=glasses,
        hat=worn,
        headband=worn == "none" and bool(rng.random() < (0.05 if person.male else 0.03)),
        necktie=person.male and bool(rng.random() < 0.15),
        necklace=(not person.male) and bool(rng.random() < 0.25),
        mask="none",
        exposure=float(np.exp(rng.normal(0.03, 0.16))),
        light=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 0.35))),
        contrast=float(rng.uniform(0.1, 0.55)),
        cast=_cast(rng),
        vignette=float(max(0.0, rng.uniform(-0.4, 0.6))),
        shadow=str(
            rng.choice(
                ["none", "forehead", "band", "side"], p=[0.76, 0.12, 0.06, 0.06] if sparse else [0.82, 0.08, 0.05, 0.05]
            )
        ),
        background=str(
            rng.choice(
                ["flat", "gradient", "clouds", "stripes", "bokeh", "clutter", "dark", "hair"],
                p=[0.1, 0.15, 0.15, 0.08, 0.14, 0.2, 0.12, 0.06],
            )
        ),
        blur=float(max(0.0, rng.normal(0.1, 0.45))),
        noise=float(abs(rng.normal(0, 3.5))),
        jpeg_quality=int(rng.integers(62, 96)),
    )


def _skin(rng: np.random.Generator) -> Colour:
    at = rng.beta(1.2, 1.7) * (len(SKIN_RAMP) - 1)
    low = min(int(at), len(SKIN_RAMP) - 2)
    red, green, blue = mix(SKIN_RAMP[low], SKIN_RAMP[low + 1], at - low)
    warm = rng.normal(0, 5)
    return blue - warm, green + rng.normal(0, 3), red + warm * 0.5


def _hair_colour(rng: np.random.Generator, skin: Colour, age: int) -> tuple[str, Colour, float]:
    name = str(rng.choice(list(HAIR_COLOURS), p=[share for _, share in HAIR_COLOURS.values()]))
    red, green, blue = HAIR_COLOURS[name][0]
    hair = shade((blue, green, red), float(np.exp(rng.normal(0, 0.18))))
    if rng.random() < 0.06:
        hair = mix(hair, shade(skin, float(rng.uniform(0.6, 1.0))), float(rng.uniform(0.6, 0.95)))
    grey = float(np.clip(rng.normal((age - 40) / 26, 0.22), 0, 1))
    white = float(rng.uniform(150, 225))
    return name, mix(hair, (white + 4, white, white - 3), grey), grey


def _iris(rng: np.random.Generator, skin: Colour) -> Colour:
    colours: list[Colour] = [(40, 60, 90), (25, 40, 60), (150, 120, 80), (90, 130, 95), (20, 25, 35)]
    pale = skin[1] > 165
    return colours[int(rng.choice(5, p=[0.3, 0.2, 0.2, 0.12, 0.18] if pale else [0.25, 0.35, 0.02, 0.03, 0.35]))]


def _cast(rng: np.random.Generator) -> Colour:
    warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.025)
    return float(1 - warmth), float(1 + tint), float(1 + warmth)


def _fringe(rng: np.random.Generator, male: bool, bald: bool, receding: float) -> Fringe:
    odds = [0.71, 0.07, 0.05, 0.045, 0.025, 0.10] if male else [0.55, 0.15, 0.10, 0.03, 0.05, 0.12]
    style = str(rng.choice(FRINGES, p=odds))
    if bald or receding > 0.6:
        style = "up"
    low, high = {"up": (0.0, 0.3), "full": (0.88, 1.4), "wispy": (0.4, 1.0)}.get(style, (0.3, 0.9))
    return Fringe(
        style=style,
        reach=float(rng.uniform(low, high)),
        density=float(rng.uniform(0.35, 0.7) if style == "wispy" else rng.uniform(0.78, 1.0)),
        opacity=float(rng.uniform(0.6, 0.95) if style == "wispy" else rng.uniform(0.85, 1.0)),
        part=float(rng.normal(0, 0.08) if style == "curtain" else rng.choice([-1, 1]) * rng.uniform(0.2, 0.6)),
        sweep=float(rng.normal(0, 0.12)),
        ragged=float(rng.uniform(0.02, 0.16)),
        seed=int(rng.integers(2**31)),
    )
