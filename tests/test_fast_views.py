"""Our own transforms against Pillow's and albumentations', and how often, how strongly and where they are drawn."""

from __future__ import annotations

from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from data_loader import fast_views
from data_loader.dataset import FaceDataset
from data_loader.fast_views import GEOMETRIC, OPERATIONS, BrightnessContrast, Cutout, shift, turn
from data_loader.views import View, view_problems
from utils.random_state import sample_seeds

HEIGHT, WIDTH = 80, 112
MOVES = [operation.__name__ for operation in GEOMETRIC]
NATIVE = ("flip", "flip_translate", "light", "randaugment", "randaugment_small_cutout")


@pytest.fixture
def photo() -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3] with large and small shapes, each channel in a range of its own."""
    rng = np.random.default_rng(3)
    parts = [rng.normal(0, 30, (n, n, 3)).astype(np.float32) for n in (3, 9, 40)]
    picture = sum(cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for part in parts)
    return np.clip(picture + np.array([90, 110, 150]), 12, 240).astype(np.uint8)


def pillow(name: str, image: Image.Image, m: int) -> Image.Image:
    """FixMatch's operation of magnitude m, geometric ones about the center and bilinear."""
    width, height = image.size
    affine = {
        "shear_x": (1, 0.03 * m, -0.03 * m * height / 2, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.03 * m, 1, -0.03 * m * width / 2),
        "translate_x": (1, 0, int(0.03 * m * width), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(0.03 * m * height)),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name], Image.Resampling.BILINEAR)
    enhancers = {"color": "Color", "contrast": "Contrast", "brightness": "Brightness", "sharpness": "Sharpness"}
    if name in enhancers:
        return getattr(ImageEnhance, enhancers[name])(image).enhance(0.1 + 1.8 * m / 10)
    return {
        "identity": lambda: image,
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, (8, 7, 7, 6, 6, 6, 5, 5, 4)[m - 1]),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(256 * m / 10)),
        "rotate": lambda: image.rotate(30 * m / 10, Image.Resampling.BILINEAR),
    }[name]()


# Largest and mean difference. Pillow rounds down where OpenCV rounds; its equalize divides the ranks by a whole number.
EXACT = ("identity", "posterize", "solarize", "translate_x", "translate_y")
TOLERANCE = {**dict.fromkeys(EXACT, (0, 0)), "equalize": (16, 6.5), "sharpness": (2, 0.6)}


def inside(name: str, m: int) -> np.ndarray:
    """Bool [HEIGHT, WIDTH]: what comes from the image, without its edge, where interpolations and smoothings differ."""
    left = np.asarray(pillow(name, Image.new("L", (WIDTH, HEIGHT), 255), m)) == 255 if name in MOVES else True
    framed = np.pad(np.broadcast_to(left, (HEIGHT, WIDTH)), 1)
    return cv2.erode(framed.astype(np.uint8), np.ones((5, 5)))[1:-1, 1:-1] > 0


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_operations_are_those_of_the_published_code(operation, photo):
    name = operation.__name__
    largest, mean = TOLERANCE.get(name, (1, 0.6))
    for m in (*range(1, 10), *(range(-9, 0) if name in MOVES else ())):
        found, expected = operation(photo, m), np.asarray(pillow(name, Image.fromarray(photo), m))
        difference = np.abs(found.astype(int) - expected)[inside(name, m)]
        assert len(difference) > 0.5 * HEIGHT * WIDTH and found.dtype == np.uint8 and found.shape == photo.shape
        assert difference.max() <= largest and difference.mean() <= mean, (m, difference.max(), difference.mean())
        assert found.min() > 0 or name not in MOVES, "the border is reflected, not black"


def test_equalize_and_reflection_are_those_of_albumentations(photo):
    assert np.array_equal(fast_views.equalize(photo, 1), A.Equalize(p=1)(image=photo)["image"])
    for down in (-20, 0, 7):
        for right in (-28, 0, 3):
            padded = cv2.copyMakeBorder(photo, 30, 30, 30, 30, cv2.BORDER_REFLECT_101)
            expected = padded[30 - down : 30 - down + HEIGHT, 30 - right : 30 - right + WIDTH]
            assert np.array_equal(shift(photo, down, right), expected)


def test_a_channel_of_one_value_stays():
    flat = np.full((16, 16, 3), (0, 90, 255), np.uint8)
    for operation in (fast_views.auto_contrast, fast_views.equalize):
        assert np.array_equal(operation(flat, 1), flat)


def test_two_of_fourteen_operations_each_with_half_probability_and_all_magnitudes(monkeypatch, photo):
    seen: list[tuple[int, int]] = []
    recorders = tuple(
        lambda image, magnitude, number=number: seen.append((number, magnitude)) or image for number in range(14)
    )
    monkeypatch.setattr(fast_views, "OPERATIONS", recorders)
    view, applied = View("randaugment", (HEIGHT, WIDTH)), Counter()
    for seed in sample_seeds(0, 1, positions=np.arange(14_000)):
        before = len(seen)
        view(photo, int(seed))
        applied[len(seen) - before] += 1
    counts = Counter(number for number, _ in seen)
    assert len(OPERATIONS) == len(counts) == 14
    assert all(abs(count - 1000) < 5 * 31 for count in counts.values()), counts
    assert [applied[n] / 14_000 for n in range(3)] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    for number in range(14):
        magnitudes = Counter(m for n, m in seen if n == number)
        signed = OPERATIONS[number] in GEOMETRIC
        assert set(magnitudes) == {*range(1, 10), *(range(-9, 0) if signed else ())}
        assert min(magnitudes.values()) > (25 if signed else 65), "equal would be 56 and 111"


@pytest.mark.parametrize("preset", ["flip", "flip_translate"])
def test_half_are_mirrored_and_translations_are_uniform_up_to_an_eighth(preset):
    places = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    places[..., 0], places[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    view, found = View(preset, (HEIGHT, WIDTH)), []
    for seed in sample_seeds(0, 1, positions=np.arange(4000)):
        around = view(places, int(seed))[HEIGHT // 2, WIDTH // 2 : WIDTH // 2 + 2].astype(int)
        mirrored = around[0, 0] > around[1, 0]
        column = WIDTH - 1 - around[0, 0] if mirrored else around[0, 0]
        found.append((mirrored, HEIGHT // 2 - around[0, 1], WIDTH // 2 - column))
    mirrored, down, right = np.array(found).T
    assert mirrored.mean() == pytest.approx(0.5, abs=0.04)
    if preset == "flip":
        assert not down.any() and not right.any()
    else:
        assert set(down) == set(range(-10, 11)) and set(right) == set(range(-14, 15))
        assert np.bincount(down + 10).min() > 120 and np.bincount(right + 14).min() > 85, "equal would be 190 and 138"
        assert np.abs(np.corrcoef([mirrored, down, right]) - np.eye(3)).max() < 0.08


def test_turning_and_light_are_those_of_albumentations(photo):
    for degrees, scale in ((10, 1.0), (-7, 1.1), (3, 0.9)):
        reflected = {"border_mode": cv2.BORDER_REFLECT_101, "p": 1}
        expected = A.Affine(rotate=(degrees, degrees), scale=(scale, scale), **reflected)(image=photo)["image"]
        assert np.array_equal(turn(photo, degrees, scale), expected)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        applied, b, c = np.random.default_rng(seed).random(3)
        b, c = 0.4 * b - 0.2, 0.4 * c - 0.2
        there = A.RandomBrightnessContrast(brightness_limit=(b, b), contrast_limit=(c, c), p=1)(image=photo)["image"]
        found = BrightnessContrast(0.2)(photo, rng)
        assert np.abs(found.astype(int) - (there if applied < 0.5 else photo)).max() <= 1


def test_light_turns_and_lights_every_second_image_up_to_its_limits(monkeypatch, photo):
    turned: list[tuple[float, float]] = []
    monkeypatch.setattr(fast_views, "turn", lambda image, degrees, scale: turned.append((degrees, scale)) or image)
    view, flat, levels = View("light", (HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH, 3), 100, np.uint8), []
    for seed in sample_seeds(0, 1, positions=np.arange(4000)):
        levels.append(int(view(flat, int(seed))[0, 0, 0]))
    degrees, scales = np.array(turned).T
    assert len(turned) / 4000 == pytest.approx(0.5, abs=0.04)
    for values, low, high in ((degrees, -10, 10), (scales, 0.9, 1.1)):
        assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high
        assert np.histogram(values, 4, (low, high))[0].min() > 420, "equal would be 500"
    assert abs(np.corrcoef(degrees, scales)[0, 1]) < 0.08
    assert (np.array(levels) == 100).mean() == pytest.approx(0.5, abs=0.04)
    assert min(levels) < 40 and max(levels) > 160 and min(levels) >= 29 and max(levels) <= 171


def test_cutout_is_relative_to_the_image_size_and_reaches_everywhere():
    for height, width in ((32, 32), (96, 64)):
        white, rng = np.full((height, width, 3), 255, np.uint8), np.random.default_rng(0)
        holes = np.stack([Cutout((0.5, 0.5))(white, rng)[..., 0] == 127 for _ in range(400)])
        assert (
            set(holes.mean((1, 2))) == {0.25}
            and holes.any((0, 1)).all()
            and holes.any((0, 2)).all()
            and (white == 255).all()
        )
        assert (holes.any(2).sum(1) == height / 2).all() and (holes.any(1).sum(1) == width / 2).all()
        small = np.stack([Cutout((0.1, 0.3))(white, rng)[..., 0] == 127 for _ in range(400)])
        for length, side in ((small.any(2).sum(1), height), (small.any(1).sum(1), width)):
            assert length.min() == round(0.1 * side) and length.max() == round(0.3 * side)
            assert length.mean() == pytest.approx(0.2 * side, rel=0.05)
    strong = View("randaugment", (96, 64))
    gray = [(strong(np.full((96, 64, 3), 200, np.uint8), seed) == 127).all(2).mean() for seed in range(40)]
    assert gray == [0.25] * 40


@pytest.mark.parametrize("preset", NATIVE)
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (8, 8), (9, 31)])
def test_views_are_contiguous_bytes_and_leave_the_source_alone(preset, size, photo):
    source = cv2.resize(photo, size[::-1])
    kept = source.copy()
    source.flags.writeable = False  # as images from the cache are
    view = View(preset, size)
    made = [view(source, seed) for seed in range(60)]
    assert all(m.dtype == np.uint8 and m.shape == (*size, 3) and m.flags.c_contiguous for m in made)
    assert np.array_equal(source, kept) and len({m.tobytes() for m in made}) > 1


def test_the_same_row_looks_different_in_each_pass(photo):
    views = {name: View(name, (HEIGHT, WIDTH)) for name in ("flip_translate", "randaugment")}
    dataset = FaceDataset([photo] * 4, {}, {"unlabeled": views}, 0)
    passes = [dataset.fetch("unlabeled", np.arange(4), np.arange(4) + 4 * number) for number in range(6)]
    for name in views:
        images = [image.numpy().tobytes() for batch in passes for image in batch[name]]
        assert len(set(images)) > 20
    again = dataset.fetch("unlabeled", np.arange(2), np.arange(2) + 8)
    assert all((again[name] == passes[2][name][:2]).all() for name in views)


def test_presets_and_transforms_follow_one_another(photo):
    """A list is its parts in turn, on one stream of draws; messages count the config's entries."""
    size, invert = photo.shape[:2], {"type": "InvertImg", "args": {"p": 1.0}}
    before, after = View([invert, "flip_translate"], size), View(["flip_translate", invert], size)
    plain = View("flip_translate", size)
    for seed in range(5):
        assert np.array_equal(before(photo, seed), plain(255 - photo, seed))
        assert np.array_equal(after(photo, seed), 255 - plain(photo, seed))
    assert view_problems(["randaugment", "none", {"type": "Normalize", "args": {}}], size, "views.train") == [
        "views.train[2].type: leave Normalize out; views.normalize does it on the device"
    ]
