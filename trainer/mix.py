"""Mixing labeled images in pairs: the mixed image keeps both labels, each with its share (`trainer.args.mix`).

A further way is a function here that returns a Mix. The trainer gives `classes` ({head: class names}) where it is asked
for. Random numbers come from torch's generator, which is seeded for every step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from base.parts import Parts
from utils.config.components import Kind
from utils.errors import did_you_mean

Targets = Mapping[str, Tensor]  # head -> int64 [N], -1 where the row is not labeled


@dataclass(frozen=True)
class Mixed:
    """Images of two faces each. images: [N, h, w, 3]; partner: int64 [N], the other face's row; share: [N], how much of
    the image, and so of the target, is the row's own."""

    images: Tensor
    partner: Tensor
    share: Tensor


Blend = Callable[[Tensor, Tensor], tuple[Tensor, float]]  # images, partners' images -> mixed images, share of the first
Partners = Callable[[Targets, int, torch.device], Tensor]  # targets, N -> int64 [N]


class Mix:
    """Pairs and blends the rows of a batch. p: probability of a row to be mixed; else it is its own partner."""

    def __init__(self, p: float, blend: Blend, partners: Partners | None = None):
        if not 0 < p <= 1:
            raise ValueError(f"p must be above 0 and at most 1, not {p}")
        self.p, self.blend, self.partners = p, blend, partners or _shuffled

    def __call__(self, images: Tensor, target: Targets) -> Mixed:
        """images: uint8 [N, h, w, 3]; target: {head: int64 [N]}."""
        n, device = len(images), images.device
        mixes = (torch.rand(n) < self.p).to(device)
        partner = torch.where(mixes, self.partners(target, n, device), torch.arange(n, device=device))
        mixed, share = self.blend(images, images[partner])
        return Mixed(mixed, partner, torch.full((n,), share, device=device))


def mixup(*, alpha: float = 0.2, p: float = 1.0) -> Mix:
    """share · own image + (1 - share) · partner's image (Zhang et al. 2018).

    alpha: of Beta(alpha, alpha), which the share is drawn from once a batch. p: probability of a row to be mixed.
    """
    share_of = _beta(alpha)

    def blend(images: Tensor, others: Tensor) -> tuple[Tensor, float]:
        share = share_of()
        return torch.lerp(others.float(), images.float(), share), share

    return Mix(p, blend)


def cutmix(*, alpha: float = 1.0, p: float = 1.0) -> Mix:
    """A box of the partner's image pasted over the row's own (Yun et al. 2019); the shares are those of the area.

    alpha: of Beta(alpha, alpha), which the share is drawn from once a batch. p: probability of a row to be mixed.
    """
    share_of = _beta(alpha)

    def blend(images: Tensor, others: Tensor) -> tuple[Tensor, float]:
        height, width = images.shape[1:3]
        side = (1 - share_of()) ** 0.5
        top, bottom = _cut(height, side)
        left, right = _cut(width, side)
        mixed = images.clone()
        mixed[:, top:bottom, left:right] = others[:, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)

    return Mix(p, blend)


def half_face(
    classes: Mapping[str, tuple[str, ...]],
    *,
    p: float = 0.5,
    head: str | None = None,
    partner: list[str] | None = None,
) -> Mix:
    """The left or the right half of the partner's face, in the same half of the row's own image; shares of a half.

    p: probability of a row to be mixed. head: the attribute whose classes `partner` names; null: the only one.
    partner: classes that a partner must have; null: any. A row is not mixed where the batch has no such partner.
    Raises ValueError for a head or a class that is not there.
    """
    if partner is None:
        if head is not None:
            raise ValueError("head says whose classes partner names; give partner too")
        return Mix(p, _half)
    if head is None and len(classes) > 1:
        raise ValueError(f"head is needed to say whose classes partner names: one of {', '.join(classes)}")
    chosen = next(iter(classes)) if head is None else head
    if chosen not in classes:
        raise ValueError(f"head: there is no '{chosen}'{did_you_mean(chosen, classes)}")
    unknown = [name for name in partner if name not in classes[chosen]]
    if unknown or not partner:
        name = unknown[0] if unknown else ""
        raise ValueError(f"partner: '{chosen}' has no class '{name}'{did_you_mean(name, classes[chosen])}")
    return Mix(p, _half, _partners_of(chosen, [classes[chosen].index(name) for name in partner]))


MIXES = Kind("mix", (sys.modules[__name__],), base=Mix, provided=frozenset({"classes"}))


def build_mix(parts: Parts, mix: dict[str, Any] | str | None) -> Mix | None:
    """The Mix of `trainer.args.mix`: a name or {"type", "args"}; null or "none" is off."""
    if mix is None or mix == "none":
        return None
    return MIXES.build(mix, parts.config.where("trainer.args.mix"), classes=parts.data.classes)


def _half(images: Tensor, others: Tensor) -> tuple[Tensor, float]:
    """Each row's side is drawn; in the middle of an odd width the row keeps its own column."""
    n, width = len(images), images.shape[2]
    half, columns = width // 2, torch.arange(width, device=images.device)
    right = (torch.rand(n) < 0.5).to(images.device)
    pasted = torch.where(right[:, None], columns >= width - half, columns < half)
    return torch.where(pasted[:, None, :, None], others, images), 1 - half / width


def _shuffled(target: Targets, n: int, device: torch.device) -> Tensor:
    return torch.randperm(n).to(device)


def _partners_of(head: str, wanted: list[int]) -> Partners:
    """Each row's partner is drawn from the batch's rows of the wanted classes; without any, the row itself."""

    def partners(target: Targets, n: int, device: torch.device) -> Tensor:
        candidates = torch.isin(target[head], torch.tensor(wanted, device=device))
        # The largest of random keys is a fair draw that never waits for the device.
        drawn = torch.rand(n, n).to(device).masked_fill(~candidates, -1).argmax(dim=1)
        return torch.where(candidates.any(), drawn, torch.arange(n, device=device))

    return partners


def _beta(alpha: float) -> Callable[[], float]:
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    distribution = torch.distributions.Beta(alpha, alpha)
    return lambda: float(distribution.sample())


def _cut(length: int, share: float) -> tuple[int, int]:
    """First and last + 1 of a cut with a uniform centre, clipped to the image."""
    centre, size = int(torch.randint(length, ())), int(length * share)
    return max(0, centre - size // 2), min(length, centre - size // 2 + size)
