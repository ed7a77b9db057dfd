"""MixUp, CutMix and half faces: which pixels and shares a mixed image has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.mix import MIXES
from utils.errors import ConfigError
from utils.random_state import seed_step

CLASSES = {"mask": ("wear", "incorrect", "normal"), "age": ("<30", "30-59", ">=60")}
TARGET = {"mask": torch.tensor([0, 1, 2, -1]), "age": torch.tensor([2, -1, -1, -1])}


def flat(values: list[int], side: int = 8, width: int = 9) -> Tensor:
    """One picture of one colour for each value."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, side, width, 3).contiguous()


def mix(kind: str, classes=CLASSES, **args):
    return MIXES.build({"type": kind, "args": args}, "trainer.args.mix", classes=classes)


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "half_face"])
def test_shares_are_those_of_the_pixels(kind):
    images = flat([10, 60, 110, 160, 210, 250])
    seen = set()
    for step in range(40):
        seed_step(0, step)
        made = mix(kind, p=1.0)
        mixed = made(images, TARGET)
        assert sorted(mixed.partner.tolist()) == list(range(6))
        own, other = images[:, 0, 0, 0].float(), images[mixed.partner][:, 0, 0, 0].float()
        expected = mixed.share * own + (1 - mixed.share) * other
        assert torch.allclose(mixed.images.float().mean((1, 2, 3)), expected, atol=1e-3)
        seen.add(round(mixed.share[0].item(), 4))
        seed_step(0, step)
        again = made(images, TARGET)
        assert torch.equal(again.images, mixed.images) and torch.equal(again.share, mixed.share)
    assert seen == {round(5 / 9, 4)} if kind == "half_face" else len(seen) > 10
    assert images[0, 0, 0, 0] == 10


def test_mixup_adds_pixels_and_cutmix_pastes_a_box():
    images = torch.randint(0, 255, (5, 8, 9, 3), dtype=torch.uint8)
    mixed = mix("mixup", alpha=1.0)(images, TARGET)
    share = mixed.share[0]
    expected = share * images.float() + (1 - share) * images[mixed.partner].float()
    assert torch.allclose(mixed.images, expected, atol=1e-3)
    mixed = mix("cutmix")(flat([0, 1, 2, 3]), TARGET)
    for row, (image, partner) in enumerate(zip(mixed.images[..., 0], mixed.partner)):
        pasted = (image == partner) if partner != row else torch.zeros_like(image, dtype=torch.bool)
        lines, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        assert pasted.sum() == len(lines) * len(columns)


def test_half_face_pastes_a_half_into_the_same_half():
    """The left half of a face never lands on the right."""
    columns = torch.arange(9, dtype=torch.uint8)[None, None, :, None]
    images = flat([0, 20, 40, 60, 80, 100, 120, 140]) + columns
    sides = set()
    for step in range(10):
        seed_step(1, step)
        mixed = mix("half_face", p=1.0)(images, TARGET)
        others = images[mixed.partner]
        assert torch.equal(mixed.images % 20, images % 20)
        for row in range(8):
            left = torch.cat([others[row, :, :4], images[row, :, 4:]], 1)
            right = torch.cat([images[row, :, :5], others[row, :, 5:]], 1)
            is_left, is_right = torch.equal(mixed.images[row], left), torch.equal(mixed.images[row], right)
            assert is_left or is_right
            sides.add("left" if is_left else "right")
    assert sides == {"left", "right"}


def test_half_face_with_partners_of_a_class():
    target = {"mask": torch.tensor([0, 1, 2, 0, 1, -1]), "age": torch.tensor([0, 2, -1, 2, 1, 0])}
    images, drawn = flat([0, 1, 2, 3, 4, 5]), []
    for step in range(100):
        seed_step(2, step)
        drawn += mix("half_face", head="age", partner=[">=60"], p=1.0)(images, target).partner.tolist()
    assert set(drawn) == {1, 3} and 0.4 < np.mean(np.array(drawn) == 1) < 0.6
    # Without such a row in the batch nothing is mixed.
    mixed = mix("half_face", head="age", partner=[">=60"], p=1.0)(images, {"age": torch.zeros(6, dtype=torch.int64)})
    assert mixed.partner.tolist() == [0, 1, 2, 3, 4, 5] and torch.equal(mixed.images, images)


def test_p_is_the_share_of_rows_that_are_mixed():
    torch.manual_seed(0)
    images = flat(list(range(200)), 2, 2)
    mixed = mix("half_face", p=0.25)(images, TARGET)
    alone = mixed.partner == torch.arange(200)
    assert 0.65 < alone.float().mean() < 0.85
    assert torch.equal(mixed.images[alone], images[alone])


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("mixup", {"alpha": 0.0}, "alpha must be above 0"),
        ("cutmix", {"p": 1.5}, "p must be above 0 and at most 1"),
        ("half_face", {"partner": [">=60"]}, "head is needed to say whose classes partner names: one of mask, age"),
        ("half_face", {"head": "age"}, "give partner too"),
        ("half_face", {"head": "agee", "partner": [">=60"]}, "no 'agee'; did you mean 'age'"),
        ("half_face", {"head": "age", "partner": [">=61"]}, "'age' has no class '>=61'; did you mean '>=60'"),
    ],
)
def test_wrong_mixes(kind, args, message):
    with pytest.raises(ConfigError, match=message):
        mix(kind, **args)
