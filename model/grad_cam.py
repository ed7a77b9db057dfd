"""Grad-CAM: which parts of an image a network's answer comes from (Selvaraju et al. 2017, §3)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from model.backbone import stages
from model.branches import Branches
from utils.errors import UserError


def grad_cam(model: nn.Module, images: Tensor, head: str, classes: Tensor) -> Tensor:
    """Where the logit of each image's class comes from, at the last stage of the backbone (of the head's own, if it has
    one): of a convolutional one its output, of one on tokens its input, since the output is pooled by one token alone.

    model: in evaluation mode. images: float [N, 3, H, W], normalised; classes: int64 [N]. Returns float [N, h, w], the
    largest value of each map 1, or all 0 where nothing speaks for the class.
    Raises UserError if the network has no stages in which places of the image can be told apart.
    """
    backbone = getattr(model, "backbone", model)
    with torch.enable_grad(), _watched(_last_stage(backbone, head)) as seen:
        logits = model(images.detach().requires_grad_())[head]
        of_images = [tensor for tensor in seen if len(tensor) == len(images) and tensor.requires_grad]
        spatial = next((tensor for tensor in reversed(of_images) if tensor.ndim == 4), next(iter(of_images), None))
        if spatial is None:
            raise _cannot(backbone)
        (slopes,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), spatial)
    values, slopes = (_as_maps(tensor, backbone, images) for tensor in (spatial.detach(), slopes))
    maps = (slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1).clamp(min=0)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def _last_stage(backbone: nn.Module, head: str) -> nn.Module:
    if isinstance(backbone, Branches):
        return backbone.branches[head].get_submodule(backbone.last_stage)
    names = stages(backbone)
    if not names:
        raise _cannot(backbone)
    return backbone.get_submodule(names[-1])


@contextlib.contextmanager
def _watched(module: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the module and comes out of it, once it was computed."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        made = made if isinstance(made, tuple) else (made,)
        seen[:] = [value for value in (*given, *made) if isinstance(value, Tensor) and value.ndim in (3, 4)]

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _as_maps(values: Tensor, backbone: nn.Module, images: Tensor) -> Tensor:
    """Float [N, C, h, w] from that, from [N, h, w, C], or from tokens [N, T, C], of which the first may be no place."""
    backbone = backbone.trunk if isinstance(backbone, Branches) else backbone
    values, (height, width) = values.float(), images.shape[2:]
    if values.ndim == 4:
        maps = [values, values.permute(0, 3, 1, 2)]
        maps = maps[::-1] if str(getattr(backbone, "output_fmt", "")) == "NHWC" else maps
        maps = [found for found in maps if _of_proportion(found.shape[2], found.shape[3], height, width)]
        if not maps:
            raise _cannot(backbone)
        return maps[0]
    for prefix in (int(getattr(backbone, "num_prefix_tokens", 0) or 0), 0):
        places = values.shape[1] - prefix
        rows = round(math.sqrt(places * height / width))
        if rows and places % rows == 0 and _of_proportion(rows, places // rows, height, width):
            return values[:, prefix:].transpose(1, 2).unflatten(2, (rows, places // rows))
    raise _cannot(backbone)


def _of_proportion(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether so many places fit an image of this size, of which the last row or column may be cut."""
    return abs(rows * width - columns * height) < max(height, width)


def _cannot(backbone: nn.Module) -> UserError:
    return UserError(
        f"--explain: this network ({type(backbone).__name__}) has no last stage in which places can be told apart"
    )
