"""Grad-CAM: the map of the definition, for every layout of a network's last stage, and in the report."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.classifier import FaceClassifier
from model.grad_cam import grad_cam
from tests.face_runs import draw_faces, train
from utils.errors import UserError


class Stages(nn.Module):
    """Two stages of 1x1 convolutions, then the mean of the places with a weight each, and one weight matrix."""

    def __init__(self, weights: Tensor, places: Tensor):
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 2, bias=False)
        self.linear.weight.data = weights
        self.places = places

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"x": self.linear((self.layer2(self.layer1(images)) * self.places).mean(dim=(2, 3)))}


def test_a_map_is_that_of_the_definition():
    """A channel weighs what its slope is on average over the places, in each of which it is another."""
    torch.manual_seed(0)
    weights, places = torch.randn(2, 4), torch.rand(4, 5, 7)
    model, images = Stages(weights, places).eval(), torch.randn(3, 3, 5, 7)
    found = grad_cam(model, images, "x", torch.tensor([0, 1, 1]))
    with torch.no_grad():
        activations = model.layer2(model.layer1(images))
    for number, of_class in enumerate([0, 1, 1]):
        of_channel = (weights[of_class][:, None, None] * places / 35).mean(dim=(1, 2))
        wanted = torch.einsum("c,chw->hw", of_channel, activations[number]).clamp(min=0)
        torch.testing.assert_close(found[number], wanted / wanted.max().clamp(min=1e-12), rtol=1e-4, atol=1e-5)
    assert found.amax() == 1 and all(parameter.grad is None for parameter in model.parameters())


def test_where_nothing_speaks_for_a_class_the_map_is_empty():
    model = Stages(torch.zeros(2, 4), torch.ones(4, 4, 4)).eval()
    assert grad_cam(model, torch.randn(1, 3, 4, 4), "x", torch.tensor([0])).tolist() == torch.zeros(1, 4, 4).tolist()


@pytest.mark.parametrize(
    ("backbone", "size", "cells"),
    [
        ("test_resnet", (128, 96), (4, 3)),
        ("test_vit", (160, 160), (10, 10)),  # tokens, one of them no place; only that one is pooled
        ("swin_tiny_patch4_window7_224", (224, 224), (7, 7)),  # [N, h, w, C]
        ("mixer_s32_224", (224, 224), (7, 7)),  # tokens, all of them places
        ("volo_d1_224", (224, 224), (14, 14)),  # [N, h, w, C] of a network that does not say so
        ("vit_small_patch16_dinov3", (80, 96), (5, 6)),  # five tokens that are no places, beside 30 that are
    ],
)
def test_maps_have_the_places_of_the_last_stage(backbone: str, size: tuple[int, int], cells: tuple[int, int]):
    """What moves in the image moves in the map, whichever way its values are laid out."""
    torch.manual_seed(0)
    model = FaceClassifier({"x": 2}, backbone=backbone).eval()
    image = torch.zeros(3, *size)
    image[:, : size[0] // 4, : size[1] // 4] = 3 * torch.randn(3, size[0] // 4, size[1] // 4)
    images = torch.stack([image, image.flip(1), image, image.flip(1)])
    maps = grad_cam(model, images, "x", torch.tensor([0, 0, 1, 1]))
    assert maps.shape == (4, *cells) and float(maps.amax()) == 1
    moved = (maps[::2] - maps[1::2]).abs().sum(dim=(0, 2))
    assert moved[: cells[0] // 2].sum() > 0.1 and moved[-(cells[0] // 2) :].sum() > 0.1


@pytest.mark.parametrize("share", [2, 3])
def test_a_head_with_stages_of_its_own_is_explained_by_them(share: int):
    torch.manual_seed(0)
    model = FaceClassifier({"a": 2, "b": 3}, backbone="test_resnet", share=share).eval()
    images = torch.randn(2, 3, 64, 64)
    before = grad_cam(model, images, "a", torch.tensor([1, 0]))
    with torch.no_grad():
        for parameter in model.backbone.branches["b"].parameters():
            parameter.zero_()
    torch.testing.assert_close(grad_cam(model, images, "a", torch.tensor([1, 0])), before)
    assert not grad_cam(model, images, "b", torch.tensor([1, 0])).any()


def test_a_network_without_stages_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 2)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"x": self.linear(images.flatten(1))}

    with pytest.raises(UserError, match="--explain: this network"):
        grad_cam(Flat().eval(), torch.randn(1, 3, 2, 2), "x", torch.tensor([0]))


def test_the_report_shows_the_images_as_the_network_sees_them(tmp_path: Path, in_process):
    draw_faces(tmp_path / "faces")
    views = {"size": [64, 32], "eval": [{"type": "HorizontalFlip", "args": {"p": 1.0}}]}
    best = train(tmp_path, "mask", ["mask"], views=views)
    given = ("test.py", "--resume", str(best), "-d", "cpu", "--out", str(tmp_path / "out"))
    plain = in_process(*given)
    without = (tmp_path / "out" / "index.html").read_text()
    assert plain.code == 0 and 'class="explained"' not in without and 'id="explain"' not in without, plain.err
    scores = (tmp_path / "out" / "metrics.json").read_bytes()
    done = in_process(*given, "--explain")
    assert done.code == 0 and (tmp_path / "out" / "metrics.json").read_bytes() == scores, done.err
    page = (tmp_path / "out" / "index.html").read_text()
    shown = re.findall(
        r'class="plain" src="[^"]+" alt="([^"]+)">\s*<img class="explained" src="data:image/jpeg;base64,([^"]+)"', page
    )
    assert len(shown) == page.count("<figure") > 3 and 'id="explain"' in page
    for path, data in shown[:5]:
        seen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).astype(float)
        assert seen.shape == (64, 32, 3)
        # Mirrored as the view asks for, under a tint that changes slowly: closer to the mirror image than to the image.
        image = cv2.resize(cv2.imread(str(tmp_path / "faces" / path)), (32, 64)).astype(float)
        detail = [one - cv2.blur(one, (9, 9)) for one in (seen, image, image[:, ::-1])]
        agree = [np.corrcoef(detail[0].ravel(), other.ravel())[0, 1] for other in detail[1:]]
        assert agree[1] > 0.5 and agree[1] > 2 * abs(agree[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a.pth", "b.pth", "--explain"), "--explain: is for one checkpoint, not for 2"),
        (("a.pth", "--explain", "--submission", "s.csv"), "--explain: a submission is not scored"),
    ],
)
def test_where_there_is_nothing_to_explain(in_process, tmp_path: Path, given: tuple[str, ...], message: str):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text("x")
    files = [str(tmp_path / part) if "." in part else part for part in given]
    done = in_process("test.py", "-d", "cpu", "--resume", *files)
    assert done.code == 2 and message in done.err, done.err
