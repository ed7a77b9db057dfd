"""Views of test-time augmentation: `test.py --tta NAME …` averages the probabilities of the image and its views.

A view is a function below, named in `VIEWS`: float [N, 3, H, W], normalised, to the same shape. No view draws random
numbers, so that a prediction can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from utils.errors import UserError, did_you_mean

TestTimeView = Callable[[Tensor], Tensor]


def hflip(images: Tensor) -> Tensor:
    """The mirror image."""
    return images.flip(3)


def crop(images: Tensor) -> Tensor:
    """The central 7/8 of each side, enlarged to the full size."""
    height, width = images.shape[2:]
    top, left = height // 16, width // 16
    inner = images[:, :, top : height - top, left : width - left]
    return F.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)


def shift_left(images: Tensor) -> Tensor:
    """Moved by 1/16 of the width; the pixels of the edge are repeated."""
    return _shift(images, 0, -(images.shape[3] // 16))


def shift_right(images: Tensor) -> Tensor:
    """As `shift_left`, to the right."""
    return _shift(images, 0, images.shape[3] // 16)


def shift_up(images: Tensor) -> Tensor:
    """Moved by 1/16 of the height; the pixels of the edge are repeated."""
    return _shift(images, -(images.shape[2] // 16), 0)


def shift_down(images: Tensor) -> Tensor:
    """As `shift_up`, downwards."""
    return _shift(images, images.shape[2] // 16, 0)


VIEWS: dict[str, TestTimeView] = {
    view.__name__: view for view in (hflip, crop, shift_left, shift_right, shift_up, shift_down)
}


def choose_views(names: Sequence[str]) -> list[TestTimeView]:
    """The views by their names. Raises UserError for a name that there is not, or one that is given twice."""
    for name in names:
        if name not in VIEWS:
            raise UserError(f"--tta {name}: no such view{did_you_mean(name, VIEWS)}")
        if names.count(name) > 1:
            raise UserError(f"--tta {name}: named twice; each view counts once")
    return [VIEWS[name] for name in names]


def _shift(images: Tensor, down: int, right: int) -> Tensor:
    """Content moved by `down` and `right` pixels (negative: up, left)."""
    height, width = images.shape[2:]
    padded = F.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate")
    top, left = max(-down, 0), max(-right, 0)
    return padded[:, :, top : top + height, left : left + width]
