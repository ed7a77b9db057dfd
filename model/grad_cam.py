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
        spatial = next((tensor for tensor in reversed(seen) if tensor.ndim == 4), seen[0] if seen else None)
        if spatial is None or not spatial.requires_grad:
            raise _cannot(backbone)
        (slopes,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), spatial)
    values, slopes = (_as_maps(tensor, backbone, images) for tensor in (spatial.detach(), slopes))
    maps = (slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1).clamp(min=0)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def _last_stage(backbone: nn.Module, head: str) -> nn.Module:
    of_head = backbone.branches[head] if isinstance(backbone, Branches) else backbone
    names = stages(of_head)
    if not names:
        raise _cannot(of_head)
    return of_head.get_submodule(names[-1])


@contextlib.contextmanager
def _watched(module: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the module and comes out of it, once it was computed."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        seen[:] = [value for value in (*given[:1], made) if isinstance(value, Tensor)]

    handle = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _as_maps(values: Tensor, backbone: nn.Module, images: Tensor) -> Tensor:
    """Float [N, C, h, w] from that, from [N, h, w, C], or from tokens [N, T, C], of which the first may be no place."""
    if isinstance(backbone, Branches):
        backbone = backbone.trunk
    values = values.float()
    if values.ndim == 4:
        return values.permute(0, 3, 1, 2) if str(getattr(backbone, "output_fmt", "")) == "NHWC" else values
    tokens = values.shape[1]
    height, width = images.shape[2:]
    for prefix in (0, int(getattr(backbone, "num_prefix_tokens", 0) or 0)):
        rows = round(math.sqrt((tokens - prefix) * height / width))
        if values.ndim == 3 and rows and (tokens - prefix) % rows == 0:
            columns = (tokens - prefix) // rows
            if abs(rows * width - columns * height) < max(height, width):
                return values[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
    raise _cannot(backbone)


def _cannot(backbone: nn.Module) -> UserError:
    return UserError(
        f"--explain: this network ({type(backbone).__name__}) has no last stage in which places can be told apart"
    )
