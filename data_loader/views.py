"""Views: one augmentation pipeline of an image, from a preset's name or a list of presets and transforms."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from data_loader.fast_views import BrightnessContrast, Cutout, Flip, FlipTranslate, RandAugment, Transform, TurnScale
from utils.config.components import Kind
from utils.errors import ConfigError

# Counted up whenever the pixels of a preset change for the same seed.
VIEWS = 3

Spec = str | Sequence[Any]
Step = dict[str, Any] | Transform

TRANSFORMS = Kind("transform", (A,), base=A.BasicTransform | A.BaseCompose)

# Tensors are made and normalised on the device, per batch.
_DONE_LATER = {"Normalize", "ToTensorV2", "ToTensor3D", "ToFloat"}


def _op(name: str, **args: Any) -> dict[str, Any]:
    return {"type": name, "args": args}


def flip_translate(height: int, width: int) -> list[Step]:
    """Horizontal flip and a reflect-padded translation by up to 12.5 % (FixMatch's weak view, Sohn et al. 2020)."""
    return [FlipTranslate()]


def randaugment(height: int, width: int) -> list[Step]:
    """`flip_translate`, then 2 of 14 operations (each applied with p = 0.5), then cutout of half the side.

    RandAugment as FixMatch uses it (Cubuk et al. 2020; Sohn et al. 2020).
    """
    return [FlipTranslate(), RandAugment(), Cutout((0.5, 0.5))]


def randaugment_small_cutout(height: int, width: int) -> list[Step]:
    """`randaugment` with a smaller cutout, for attributes that sit in one small part of the face."""
    return [FlipTranslate(), RandAugment(), Cutout((0.1, 0.3))]


def none(height: int, width: int) -> list[Step]:
    """The image at the views' size, nothing else."""
    return []


def flip(height: int, width: int) -> list[Step]:
    """Horizontal flip with p = 0.5."""
    return [Flip()]


def light(height: int, width: int) -> list[Step]:
    """`flip_translate` with small rotation, scale and light changes: a plain supervised default."""
    return [FlipTranslate(), TurnScale(degrees=10, scale=0.1), BrightnessContrast(0.2)]


def simclr(height: int, width: int) -> list[Step]:
    """SimCLR's view (Chen et al. 2020, appendix A, color strength 0.5), for faces: crops keep 40 % of the area or more.

    The paper's crops of down to 8 % would be of hair alone and of the chin alone, and equal for all faces.
    """
    color = {"brightness": [0.6, 1.4], "contrast": [0.6, 1.4], "saturation": [0.6, 1.4], "hue": [-0.1, 0.1]}
    kernel = max(3, min(height, width) // 10 | 1)
    return [
        _op("RandomResizedCrop", size=[height, width], scale=[0.4, 1.0], ratio=[3 / 4, 4 / 3], p=1.0),
        _op("HorizontalFlip", p=0.5),
        _op("ColorJitter", **color, p=0.8),
        _op("ToGray", p=0.2),
        _op("GaussianBlur", blur_limit=[kernel, kernel], sigma_limit=[0.1, 2.0], p=0.5),
    ]


PRESETS: dict[str, Callable[[int, int], list[Step]]] = {
    preset.__name__: preset
    for preset in (none, flip, flip_translate, light, randaugment, randaugment_small_cutout, simclr)
}


class View:
    """A pipeline whose result depends on the image and the seed only, never on the process or the calls before.

    steps: our own transforms, and albumentations' as composed runs of neighbours.
    """

    def __init__(self, spec: Spec, size: tuple[int, int], where: str = "view"):
        self.height, self.width = size
        self.steps: list[Transform | A.Compose] = []
        library: list[Any] = []
        for i, step in _steps(spec, size):
            if callable(step):
                self.steps += [*_composed(library), step]
                library = []
            else:
                library.append(TRANSFORMS.build(step, f"{where}[{i}]"))
        self.steps += _composed(library)
        self._share_generators()

    def _share_generators(self) -> None:
        """One pair of generators for all transforms. With set_random_seed each would get its own, equally seeded: every
        p = 0.5 in the pipeline would come out the same way for a sample, and seeding would take a third of the time."""
        self._bits, self._python = np.random.Philox(key=0), random.Random(0)
        self._fresh, self._rng = self._bits.state, np.random.Generator(self._bits)
        composed = [step for step in self.steps if isinstance(step, A.Compose)]
        for step in composed:
            step.set_random_state(self._rng, self._python)
        self._uses_python = bool(composed)

    def __getstate__(self) -> dict[str, Any]:
        return {"height": self.height, "width": self.width, "steps": self.steps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share_generators()

    def of(self, row: int) -> View:
        """The view of a row: the same for all."""
        return self

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """image: uint8 [h, w, 3] RGB -> uint8 [height, width, 3]."""
        if self.steps:
            self._fresh["state"]["key"][0] = seed
            self._bits.state = self._fresh
        if self._uses_python:
            self._python.seed(int(seed))
        for step in self.steps:
            image = step(image=image)["image"] if isinstance(step, A.Compose) else step(image, self._rng)
        if image.shape[:2] != (self.height, self.width):
            image = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return image


def is_random(view: View, draws: int = 16) -> bool:
    """Whether a view may do something or not (0 < p < 1), or draws of it differ: on an image that is noise on one side
    and smooth on the other, since what levels histograms, such as CLAHE, changes the smooth one only."""
    if any(_is_tossed(step) for step in view.steps):
        return True
    image = np.random.default_rng(0).integers(0, 256, (view.height, view.width, 3), dtype=np.uint8)
    image[:, view.width // 2 :] = np.linspace(90, 110, view.height)[:, None, None].astype(np.uint8)
    first = view(image, 0) if view.steps else image
    return bool(view.steps) and any(not np.array_equal(first, view(image, seed)) for seed in range(1, draws))


def _is_tossed(step: Any) -> bool:
    return 0 < getattr(step, "p", 1.0) < 1 or any(_is_tossed(part) for part in getattr(step, "transforms", ()))


def random_steps(spec: Spec, size: tuple[int, int], where: str) -> list[str]:
    """The first step of what is done to an image once that would do another thing every time, as a line, if any."""
    steps = [spec] if isinstance(spec, str) else list(spec)
    for i, step in enumerate(steps):
        if is_random(View(steps[: i + 1], size, where)):
            name = step if isinstance(step, str) else dict(step)["type"]
            place = where if isinstance(spec, str) else f"{where}[{i}]"
            return [
                f"{place}: {name} is random, but what is done once must be the same every time; give it p = 1 and "
                "ranges of one value, such as [2, 2], or name it in views.train"
            ]
    return []


def in_words(spec: Spec, size: tuple[int, int]) -> str:
    """All that decides what a view without randomness does, presets by what they are made of."""
    steps = [step for _, step in _steps(spec, size)]
    told = [repr(step) if callable(step) else json.dumps(step, sort_keys=True) for step in steps]
    return re.sub(r" at 0x[0-9a-f]+", "", f"{VIEWS} {A.__version__} {told}")


def _steps(spec: Spec, size: tuple[int, int]) -> list[tuple[int, Any]]:
    """Each step with its place in the config's list, in which a preset's name stands for its steps."""
    if isinstance(spec, str):
        return list(enumerate(PRESETS[spec](*size)))
    steps: list[tuple[int, Any]] = []
    for place, step in enumerate(spec):
        is_preset = isinstance(step, str) and step in PRESETS
        steps += [(place, part) for part in (PRESETS[step](*size) if is_preset else [step])]
    return steps


def _composed(transforms: list[Any]) -> list[A.Compose]:
    return [A.Compose(transforms)] if transforms else []


def view_problems(spec: Spec, size: tuple[int, int], where: str) -> list[str]:
    """What is wrong with a view that is known to name existing transforms, one line each; each is tried on an image."""
    problems = []
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for i, transform in _steps(spec, size):
        if callable(transform):
            continue
        name = transform if isinstance(transform, str) else dict(transform)["type"]
        if name in _DONE_LATER:
            problems.append(f"{where}[{i}].type: leave {name} out; views.normalize does it on the device")
            continue
        try:
            built = TRANSFORMS.build(transform, f"{where}[{i}]")
        except ConfigError as error:
            problems += error.problems
            continue
        built.p = 1.0
        try:
            changed = A.Compose([built])(image=image)["image"]
        except Exception as error:  # whatever a transform of the library raises
            said = str(error).partition("\n")[0]
            return [*problems, f"{where}[{i}]: {name} fails on an image of {_size_of(image)} (views.size): {said}"]
        if changed.dtype != np.uint8 or changed.shape[2:] != (3,):
            kind = f"{changed.dtype} [{', '.join(map(str, changed.shape))}]"
            return [*problems, f"{where}[{i}]: {name} gives {kind}; a view must give uint8 [height, width, 3]"]
        image = changed
    return problems


def _size_of(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]} pixels"
