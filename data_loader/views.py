"""Views: one augmentation pipeline of an image, from a preset's name or a list of albumentations transforms."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from utils.config.components import Kind
from utils.errors import ConfigError

Spec = str | Sequence[Any]

TRANSFORMS = Kind("transform", (A,), base=A.BasicTransform | A.BaseCompose)

# Tensors are made and normalised on the device, per batch.
_DONE_LATER = {"Normalize", "ToTensorV2", "ToTensor3D", "ToFloat"}


def _op(name: str, **args: Any) -> dict[str, Any]:
    return {"type": name, "args": args}


def flip_translate(height: int, width: int) -> list[dict[str, Any]]:
    """Horizontal flip and a reflect-padded translation by up to 12.5 % (FixMatch's weak view, Sohn et al. 2020)."""
    return [
        _op("HorizontalFlip", p=0.5),
        _op("Pad", padding=[round(width / 8), round(height / 8)], border_mode=cv2.BORDER_REFLECT_101, p=1.0),
        _op("RandomCrop", height=height, width=width, p=1.0),
    ]


def randaugment(height: int, width: int) -> list[dict[str, Any]]:
    """`flip_translate`, then 2 of 14 operations (each applied with p = 0.5), then cutout of half the side.

    RandAugment as FixMatch uses it (Cubuk et al. 2020; Sohn et al. 2020, table 12), in albumentations' terms.
    """
    border = {"border_mode": cv2.BORDER_REFLECT_101}
    operations = [
        _op("NoOp", p=0.5),
        _op("AutoContrast", p=0.5),
        _op("Equalize", p=0.5),
        _op("Posterize", num_bits=[4, 8], p=0.5),
        _op("Solarize", threshold_range=[0.4, 1.0], p=0.5),
        _op("Sharpen", alpha=[0.1, 0.9], p=0.5),
        _op("ColorJitter", brightness=[0.3, 1.7], contrast=[1, 1], saturation=[1, 1], hue=[0, 0], p=0.5),
        _op("ColorJitter", brightness=[1, 1], contrast=[0.3, 1.7], saturation=[1, 1], hue=[0, 0], p=0.5),
        _op("ColorJitter", brightness=[1, 1], contrast=[1, 1], saturation=[0.1, 1.9], hue=[0, 0], p=0.5),
        _op("Rotate", limit=[-30, 30], **border, p=0.5),
        _op("Affine", shear={"x": [-17, 17], "y": [0, 0]}, **border, p=0.5),
        _op("Affine", shear={"x": [0, 0], "y": [-17, 17]}, **border, p=0.5),
        _op("Affine", translate_percent={"x": [-0.3, 0.3], "y": [0, 0]}, **border, p=0.5),
        _op("Affine", translate_percent={"x": [0, 0], "y": [-0.3, 0.3]}, **border, p=0.5),
    ]
    cutout = _op(
        "CoarseDropout",
        num_holes_range=[1, 1],
        hole_height_range=[0.5, 0.5],
        hole_width_range=[0.5, 0.5],
        fill=127,
        p=1.0,
    )
    return [*flip_translate(height, width), _op("SomeOf", transforms=operations, n=2, p=1.0), cutout]


def randaugment_small_cutout(height: int, width: int) -> list[dict[str, Any]]:
    """`randaugment` with a smaller cutout, for attributes that sit in one small part of the face."""
    strong = randaugment(height, width)
    strong[-1] = {"type": "CoarseDropout", "args": {**strong[-1]["args"]}}
    strong[-1]["args"].update(hole_height_range=[0.1, 0.3], hole_width_range=[0.1, 0.3])
    return strong


def none(height: int, width: int) -> list[dict[str, Any]]:
    """The image at the views' size, nothing else."""
    return []


def flip(height: int, width: int) -> list[dict[str, Any]]:
    """Horizontal flip with p = 0.5."""
    return [_op("HorizontalFlip", p=0.5)]


def light(height: int, width: int) -> list[dict[str, Any]]:
    """`flip_translate` with small rotation, scale and light changes: a plain supervised default."""
    return [
        *flip_translate(height, width),
        _op("Affine", scale=[0.9, 1.1], rotate=[-10, 10], border_mode=cv2.BORDER_REFLECT_101, p=0.5),
        _op("RandomBrightnessContrast", brightness_limit=[-0.2, 0.2], contrast_limit=[-0.2, 0.2], p=0.5),
    ]


def simclr(height: int, width: int) -> list[dict[str, Any]]:
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


PRESETS: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    preset.__name__: preset
    for preset in (none, flip, flip_translate, light, randaugment, randaugment_small_cutout, simclr)
}


class View:
    """A pipeline whose result depends on the image and the seed only, never on the process or the calls before."""

    def __init__(self, spec: Spec, size: tuple[int, int], where: str = "view"):
        self.height, self.width = size
        transforms = PRESETS[spec](*size) if isinstance(spec, str) else list(spec)
        self.pipeline = (
            A.Compose([TRANSFORMS.build(t, f"{where}[{i}]") for i, t in enumerate(transforms)]) if transforms else None
        )
        self._share_generators()

    def _share_generators(self) -> None:
        """One pair of generators for all transforms. With set_random_seed each would get its own, equally seeded: every
        p = 0.5 in the pipeline would come out the same way for a sample, and seeding would take a third of the time."""
        self._bits, self._python = np.random.Philox(key=0), random.Random(0)
        self._fresh = self._bits.state
        if self.pipeline is not None:
            self.pipeline.set_random_state(np.random.Generator(self._bits), self._python)

    def __getstate__(self) -> dict[str, Any]:
        return {"height": self.height, "width": self.width, "pipeline": self.pipeline}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share_generators()

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """image: uint8 [h, w, 3] RGB -> uint8 [height, width, 3]."""
        if self.pipeline is not None:
            self._fresh["state"]["key"][0] = seed
            self._bits.state = self._fresh
            self._python.seed(int(seed))
            image = self.pipeline(image=image)["image"]
        if image.shape[:2] != (self.height, self.width):
            image = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return image


def view_problems(spec: Spec, size: tuple[int, int], where: str) -> list[str]:
    """What is wrong with a view that is known to name existing transforms, one line each."""
    problems = []
    for i, transform in enumerate(PRESETS[spec](*size) if isinstance(spec, str) else spec):
        name = transform if isinstance(transform, str) else dict(transform)["type"]
        if name in _DONE_LATER:
            problems.append(f"{where}[{i}].type: leave {name} out; views.normalize does it on the device")
            continue
        try:
            TRANSFORMS.build(transform, f"{where}[{i}]")
        except ConfigError as error:
            problems += error.problems
    return problems
