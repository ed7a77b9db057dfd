"""Network, weights, losses and metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from torch import nn

from base.base_model import BaseModel
from model import loss, metric
from model.classifier import FaceClassifier, check_logits
from utils.errors import UserError
from utils.sums import confusion_matrix

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FACES_SHARED", ROOT.parent / "shared"))
LITE0 = SHARED / "weights" / "tf_efficientnet_lite0_timm.pth"
HEADS = {"mask": 3, "gender": 2}
SMALL = "mobilenetv3_small_050"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(n: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, side, side)


def randomised(net: nn.Module) -> nn.Module:
    """Every tensor random, batch norm statistics included, so that a swapped pair of tensors cannot go unseen."""
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in key else 0.1 * torch.randn_like(tensor))
    return net.eval()


def same_features(model: FaceClassifier, reference: nn.Module) -> bool:
    x = images()
    with torch.no_grad():
        expected, features = reference(x), model.eval().features(x)
    assert expected.std() > 0
    return torch.allclose(features, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


# ---------------------------------------------------------------- classifier


def test_forward_gives_the_logits_of_every_head():
    model = FaceClassifier(HEADS, backbone=SMALL).eval()
    x = images()
    logits = model(x)
    assert {head: tuple(z.shape) for head, z in logits.items()} == {"mask": (2, 3), "gender": (2, 2)}
    features = model.features(x)
    assert torch.equal(model.classify(features)["mask"], logits["mask"])
    assert torch.allclose(logits["mask"], features @ model.heads["mask"].weight.T + model.heads["mask"].bias, atol=1e-6)
    assert model.summary().startswith("FaceClassifier: ")


@pytest.mark.parametrize(
    ("backbone", "share"),
    [(SMALL, 3), ("resnet18", "layer2"), ("convnext_atto", 1), ("test_vit", 2), ("densenet121", 1)],
)
def test_heads_share_the_stages_up_to_one_and_start_alike_behind_it(backbone, share):
    """Each branch computes what the uncut network does, and a head's loss reaches no other head's branch."""
    torch.manual_seed(0)
    whole = FaceClassifier(HEADS, backbone=backbone).eval()
    torch.manual_seed(0)
    cut = FaceClassifier(HEADS, backbone=backbone, share=share, dropout=0.0).eval()
    x = torch.randn(2, 3, *(whole.required_size or (64, 64)))
    expected, features = whole.features(x), cut.features(x)
    assert torch.equal(features, torch.cat([expected, expected], dim=1))
    assert all(torch.equal(cut(x)[head], logits) for head, logits in whole(x).items())
    assert all(torch.equal(cut(features)[head], logits) for head, logits in whole(x).items())

    cut(x)["mask"].square().mean().backward()
    of = {
        part: list(cut.backbone.get_submodule(part).parameters())
        for part in ("trunk", "branches.mask", "branches.gender")
    }
    assert {part: any(w.grad.any() for w in weights) for part, weights in of.items()} == {
        "trunk": True,
        "branches.mask": True,
        "branches.gender": False,
    }
    count = sum(weight.numel() for weight in whole.backbone.parameters())
    trunk, branch, other = (sum(weight.numel() for weight in weights) for weights in of.values())
    assert trunk + branch == count and branch == other


def test_a_cut_backbone_keeps_what_is_frozen():
    model = FaceClassifier(HEADS, backbone=SMALL, freeze=2, share=3, batch_norm="frozen").train()
    assert not model.has_batch_norm and not any(w.requires_grad for w in model.backbone.trunk.blocks[:2].parameters())
    assert all(w.requires_grad for w in model.backbone.branches.parameters())
    trains = FaceClassifier(HEADS, backbone=SMALL, freeze=2, share=3).train()
    kept = {
        f"backbone.trunk.{name}"
        for name, module in trains.backbone.trunk.named_modules()
        if isinstance(module, nn.BatchNorm2d) and name.startswith(("bn1", "blocks.0", "blocks.1"))
    }
    assert set(trains.frozen_batch_norms) == kept and kept


def test_weights_of_one_branch(tmp_path):
    """What a network with branches has learned can start another, a branch at a time."""
    cut = FaceClassifier(HEADS, backbone=SMALL, share=3)
    with torch.no_grad():
        cut.backbone.branches["gender"].conv_head.weight += 1
    torch.save(cut.state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match='branches for mask, gender: take one with "strip_prefix": '):
        FaceClassifier(HEADS, backbone=SMALL, weights=str(tmp_path / "model.pth"))
    prefixes = ["backbone.trunk.", "backbone.branches.gender."]
    one = FaceClassifier(HEADS, backbone=SMALL, weights={"path": str(tmp_path / "model.pth"), "strip_prefix": prefixes})
    assert one.weight_report.share == 1
    assert torch.equal(one.backbone.conv_head.weight, cut.backbone.branches["gender"].conv_head.weight)
    assert torch.equal(one.backbone.conv_stem.weight, cut.backbone.trunk.conv_stem.weight)
    again = FaceClassifier(HEADS, backbone=SMALL, share=3, weights=str(tmp_path / "model.pth"))
    assert again.weight_report.share == 1 and all(
        torch.equal(weight, cut.backbone.state_dict()[name]) for name, weight in again.backbone.state_dict().items()
    )


@pytest.mark.parametrize(("backbone", "share"), [("rexnet_100", None), ("ghostnet_100", 5)])
def test_no_dropout_but_that_of_the_config(backbone, share):
    """timm gives these networks dropout by default, one of them in a function that is not a layer."""
    model = FaceClassifier(HEADS, backbone=backbone, share=share, dropout=0.0, batch_norm="frozen")
    x = images(2)
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0  # stochastic depth is part of the network
    assert torch.allclose(model.train()(x)["mask"], model.eval()(x)["mask"], atol=1e-5)


def test_no_dropout_for_the_clean_rows():
    model = FaceClassifier(HEADS, backbone="convnext_atto", dropout=0.5)
    x = images(4)
    plain = model.eval()(x)["mask"]
    mixed = model.train()(x, clean=2)["mask"]
    assert torch.allclose(mixed[:2], plain[:2], atol=1e-5)
    assert not torch.isclose(mixed[2:], plain[2:], atol=1e-5).all(dim=1).any()
    assert torch.allclose(model.eval()(x, clean=2)["mask"], plain, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet_18"}, "did you mean 'resnet18'"),
        ({"backbone": "resnet18.imagenet"}, "no weights named 'imagenet'"),
        ({"backbone": SMALL, "dropout": 1.0}, "arch.args.dropout"),
        ({"backbone": SMALL, "batch_norm": "freeze"}, "did you mean 'frozen'"),
        ({"backbone": SMALL, "heads": {}}, "at least one head"),
        ({"backbone": SMALL, "heads": {"age": 1}}, "at least 2"),
        ({"backbone": SMALL, "heads": {"a.b": 2}}, "'a.b' cannot be the name of a head"),
        ({"backbone": SMALL, "heads": {"type": 2}}, "'type' cannot be the name of a head"),
        ({"backbone": SMALL, "freeze": "layer1"}, "choose from backbone, blocks.0, blocks.1"),
        ({"backbone": SMALL, "freeze": 7}, "0 to 6"),
        (
            {"backbone": SMALL, "share": "layer1"},
            "arch.args.share: this backbone has no stage 'layer1'; choose from blocks.0",
        ),
        ({"backbone": SMALL, "share": 6}, "arch.args.share: 6 is the last stage"),
        (
            {"backbone": SMALL, "share": 1, "freeze": 2},
            "arch.args.freeze freezes stages behind 1, whose branches would be the same; share at least 2",
        ),
        ({"backbone": SMALL, "share": 1, "freeze": "backbone"}, "the same; set it to null"),
        ({"backbone": SMALL, "share": 1, "heads": {"age": 3}}, "there is only 'age'"),
        ({"backbone": SMALL, "share": 1, "head": "simclr"}, "'simclr' trains none"),
        ({"backbone": SMALL, "cosine_scale": 0.0}, "arch.args.cosine_scale: must be above 0"),
        ({"backbone": SMALL, "cosine_scale": 30.0, "head": "simclr"}, "'simclr' fits linear classifiers"),
        ({"backbone": "inception_resnet_v2", "share": 1}, "a InceptionResnetV2 cannot be cut"),
        ({"backbone": SMALL, "pretrained": True, "weights": "no.pth"}, "no such file 'no.pth'"),
        ({"backbone": "vit_tiny_r_s16_p8_224.none", "pretrained": True}, "no weights named 'none'"),
        ({"backbone": "coatnet_0_224", "pretrained": True}, "no pretrained weights"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        FaceClassifier(**{"heads": HEADS, **arguments})


def test_cosine_classifiers_give_scaled_cosines_of_every_head_in_full_precision():
    model = FaceClassifier(
        HEADS, backbone=SMALL, cosine_scale=20.0, share=2, head={"gender": "abc", "default": "plain"}
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.eval().features(images)
        logits = model.classify(features)
    parts = dict(zip(HEADS, features.float().chunk(len(HEADS), dim=1)))
    for head in HEADS:
        weight = (model.balanced_heads if head == "gender" else model.heads)[head].weight
        expected = 20 * F.cosine_similarity(parts[head][:, None], weight[None], dim=2)
        assert logits[head].dtype == torch.float32 and torch.allclose(logits[head], expected, atol=1e-4)
    assert model.heads["mask"].weight.std() > 0 and not [
        name for name in model.state_dict() if name.endswith("s.gender.bias")
    ]


@pytest.mark.parametrize(
    ("backbone", "freeze", "last_frozen", "first_trained"),
    [
        ("resnet18", "layer2", "layer2.1.bn2.bias", "layer3.0.conv1.weight"),
        ("resnet18", 1, "layer1.1.bn2.bias", "layer2.0.conv1.weight"),
        ("resnet18", 0, "bn1.bias", "layer1.0.conv1.weight"),
        ("resnet18", "backbone", "layer4.1.bn2.bias", None),
        (SMALL, "blocks.1", "blocks.1.1.bn3.bias", "blocks.2.0.conv_pw.weight"),
        ("convnext_atto", "stages.0", "stages.0.blocks.1.mlp.fc2.bias", "stages.1.downsample.0.weight"),
        ("vit_tiny_patch16_224", 2, "blocks.1.mlp.fc2.bias", "blocks.2.norm1.weight"),
        ("densenet121", 1, "features.denseblock1.denselayer6.conv2.weight", "features.transition1.norm.weight"),
    ],
)
def test_freeze_stops_at_the_stage(backbone, freeze, last_frozen, first_trained):
    named = list(FaceClassifier(HEADS, backbone=backbone, freeze=freeze).backbone.named_parameters())
    names = [name for name, _ in named]
    frozen = [name for name, parameter in named if not parameter.requires_grad]
    assert frozen == names[: len(frozen)]
    assert frozen[-1] == last_frozen
    assert names[len(frozen) : len(frozen) + 1] == ([first_trained] if first_trained else [])


@pytest.mark.parametrize(
    ("backbone", "freeze", "size"),
    [
        ("vit_small_patch16_224", 6, (224, 224)),
        ("swin_tiny_patch4_window7_224", 2, (224, 224)),
        ("efficientnet_b4", 3, None),
    ],
)
def test_backbones_by_name(backbone, freeze, size):
    """Names and stages that configs use, on the meta device: without weights to fill or to compute with."""
    with torch.device("meta"):
        model = FaceClassifier(HEADS, backbone=backbone, freeze=freeze)
        logits = model(torch.zeros(2, 3, *(size or (160, 128))))
    assert model.required_size == size and {head: rows.shape[1] for head, rows in logits.items()} == HEADS
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    assert 0 < frozen < sum(weight.numel() for weight in model.parameters())


def test_frozen_layers_get_no_gradient_and_keep_their_statistics():
    model = FaceClassifier(HEADS, backbone="resnet18", freeze="layer1").train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    sum(z.square().mean() for z in model(images()).values()).backward()
    for name, parameter in model.backbone.named_parameters():
        stem = name.startswith(("conv1", "bn1", "layer1."))
        assert (parameter.grad is None) == stem, name
    changed = {key.split(".")[1] for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"layer2", "layer3", "layer4"}
    assert model.backbone.layer2[0].bn1.training
    assert not model.backbone.bn1.training
    assert model.has_batch_norm


@pytest.mark.parametrize("arguments", [{"freeze": "backbone"}, {"batch_norm": "frozen"}])
def test_no_batch_statistics_when_all_batch_norms_are_frozen(arguments):
    model = FaceClassifier(HEADS, backbone="resnet18", dropout=0.0, **arguments)
    x = images(3)
    assert not model.train().has_batch_norm
    assert torch.allclose(model(x)["mask"][:1], model(x[:1])["mask"], atol=1e-4)
    assert model.backbone.conv1.weight.requires_grad == ("batch_norm" in arguments)
    assert not FaceClassifier(HEADS, backbone="convnext_atto").has_batch_norm


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        ({"batch_norm": "frozen"}, True),
        ({"freeze": 1}, True),
        ({}, False),
        ({"batch_norm": "frozen", "pretrained": True}, False),
    ],
)
def test_what_is_random_and_frozen_is_warned_of(arguments, warned):
    model = FaceClassifier(HEADS, backbone=SMALL, load_weights=False, **arguments)
    assert ("warning: parts of a network that starts from random weights are frozen" in model.summary()) == warned


def test_check_logits_finds_probabilities():
    z = torch.randn(8, 3)
    check_logits(z, "mask")
    check_logits(z.relu(), "mask")
    check_logits(z.log_softmax(1), "mask")
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(UserError, match="'mask' is probabilities"):
            check_logits(z.to(dtype).softmax(1), "mask")


# ---------------------------------------------------------------- parameter groups


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_parameter_groups_by_shape(backbone):
    model = FaceClassifier(HEADS, backbone=backbone, freeze=1)
    groups = model.parameter_groups(1e-3, 1e-4, 0.05)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("backbone", 1e-4, 0.05),
        ("backbone_no_decay", 1e-4, 0.0),
        ("head", 1e-3, 0.05),
        ("head_no_decay", 1e-3, 0.0),
    ]
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    torch.optim.AdamW(groups).step()


def test_no_decay_where_names_do_not_tell():
    model = FaceClassifier(HEADS, backbone="resnet18")
    groups = model.parameter_groups(1e-3, None, 0.01)
    undecayed = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in undecayed}
    assert "backbone.layer2.0.downsample.1.weight" in names
    assert names == {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    assert {group["lr"] for group in groups} == {1e-3}


def test_frozen_backbone_has_no_group_and_a_headless_model_no_backbone_rate():
    model = FaceClassifier(HEADS, backbone=SMALL, freeze="backbone")
    assert [group["name"] for group in model.parameter_groups(1e-3, 1e-4)] == ["head", "head_no_decay"]

    class Linear(BaseModel):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 2)

        def forward(self, images, clean=0):
            return {"mask": self.linear(images.flatten(1))}

    with pytest.raises(UserError, match=r"optimizer\.backbone_lr"):
        Linear().parameter_groups(1e-3, 1e-4)


# ---------------------------------------------------------------- weights


@pytest.mark.skipif(not LITE0.exists(), reason=f"needs {LITE0}")
def test_real_weights():
    model = FaceClassifier(HEADS, backbone="tf_efficientnet_lite0", weights={"path": str(LITE0), "sha256": "a10ced42"})
    report = model.weight_report
    assert (len(report.matched), report.missing, report.shape_mismatch, report.share) == (245, [], [], 1.0)
    assert report.unexpected == ["classifier.weight", "classifier.bias"]
    assert "245 of 245 backbone tensors (100 % of the values)" in report.line()
    assert "named after" not in report.line()
    assert model.normalization == ((0.5,) * 3, (0.5,) * 3)
    file = torch.load(LITE0, weights_only=True)
    assert torch.equal(model.backbone.conv_head.weight, file["conv_head.weight"])

    other = FaceClassifier(HEADS, backbone="efficientnet_lite0", weights=str(LITE0))
    assert "the file is named after 'tf_efficientnet_lite0', the backbone is 'efficientnet_lite0'" in (
        other.weight_report.line()
    )
    with pytest.raises(UserError, match="has sha256 a10ced42"):
        FaceClassifier(HEADS, backbone="tf_efficientnet_lite0", weights={"path": str(LITE0), "sha256": "b10ced42"})


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(1)
    net = randomised(torchvision.models.resnet18(weights=None))
    net.fc = nn.Linear(512, 2)
    return net


def features_of(net: nn.Module) -> nn.Module:
    return nn.Sequential(*list(net.children())[:-1], nn.Flatten())


def test_torchvision_resnet_in_a_wrapper(tmp_path, resnet18):
    state = {f"module.{k}": v for k, v in resnet18.state_dict().items() if "num_batches" not in k}
    torch.save(
        {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, tmp_path / "g.pth"
    )
    model = FaceClassifier(HEADS, backbone="resnet18", weights={"path": str(tmp_path / "g.pth"), "strict": "all"})
    assert model.weight_report.unexpected == ["module.fc.weight", "module.fc.bias"]
    assert len(model.weight_report.matched) == 100
    assert "read from 'state_dict'" in model.weight_report.line()
    assert same_features(model, features_of(resnet18))


def test_segmentation_network_cut_after_layer3(tmp_path, resnet18):
    base = nn.Sequential(*list(resnet18.children())[:7])
    state = {f"module.base_network.features.{k}": v for k, v in base.state_dict().items()}
    state["module.read_out.weight"] = torch.zeros(1, 256, 1, 1)
    path = str(tmp_path / "pspnet.pth")
    torch.save({"weight": state, "loss": 0.1, "iou": [0.9]}, path)
    with pytest.raises(UserError, match=r"at least 90%(?s:.*)Nothing in the file for layer4; \"strict\": \"off\""):
        FaceClassifier(HEADS, backbone="resnet18", weights=path)
    model = FaceClassifier(HEADS, backbone="resnet18", weights={"path": path, "strict": "off"})
    report = model.weight_report
    assert len(report.matched) == 75
    assert {key.split(".")[0] for key in report.missing} == {"layer4"}
    assert report.unexpected == ["module.read_out.weight"]
    assert 0.24 < report.share < 0.26
    x = images()
    with torch.no_grad():
        mine = model.eval().backbone.layer3(
            model.backbone.layer2(model.backbone.layer1(model.backbone.maxpool(model.backbone.act1(
                model.backbone.bn1(model.backbone.conv1(x))))))
        )  # fmt: skip
        assert torch.allclose(mine, base(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("mobilenet_v2", "mobilenetv2_100"), ("efficientnet_b0", "efficientnet_b0")]
)
def test_torchvision_nets_of_other_names_match_in_order(tmp_path, theirs, ours):
    net = randomised(torchvision.models.get_model(theirs, weights=None))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = FaceClassifier(HEADS, backbone=ours, weights=str(tmp_path / "net.pth"))
    assert model.weight_report.share == 1
    assert "matched by order and shape" in model.weight_report.line()
    assert same_features(model, nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_torchvision_net_that_pads_differently_is_refused(tmp_path):
    torch.save(torchvision.models.efficientnet_b0(weights=None).state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="look like those of a torchvision efficientnet"):
        FaceClassifier(HEADS, backbone="tf_efficientnet_b0", weights=str(tmp_path / "net.pth"))


def test_own_checkpoint_and_its_average(tmp_path):
    live, average = (FaceClassifier({"age": 4}, backbone=SMALL) for _ in range(2))
    content: dict = {
        "format": 1,
        "config": "{}",
        "model": live.state_dict(),
        "ema": {"updates": 3, "model": average.state_dict()},
        "random": {"torch": torch.get_rng_state()},
    }
    path = str(tmp_path / "best.pth")
    torch.save(content, path)
    for options, source in (({}, average), ({"key_in_file": "model"}, live)):
        model = FaceClassifier(HEADS, backbone=SMALL, weights={"path": path, **options})
        assert torch.equal(model.backbone.conv_stem.weight, source.backbone.conv_stem.weight)
        assert model.weight_report.unexpected == ["heads.age.weight", "heads.age.bias"]
    with pytest.raises(UserError, match=r"key_in_file: .*has no 'emma.model'; did you mean 'ema'"):
        FaceClassifier(HEADS, backbone=SMALL, weights={"path": path, "key_in_file": "emma.model"})
    torch.save({**content, "ema": None}, path)
    model = FaceClassifier(HEADS, backbone=SMALL, weights=path)
    assert torch.equal(model.backbone.conv_stem.weight, live.backbone.conv_stem.weight)


def test_safetensors_prefixes_renames_and_normalization(tmp_path):
    net = timm.create_model(SMALL, num_classes=0)
    state = {f"{part}.{k.replace('conv_stem', 'first')}": v + i for i, part in enumerate(("student", "teacher"))
             for k, v in net.state_dict().items()}  # fmt: skip
    save_file(state, tmp_path / "dino.safetensors")
    options = {"path": str(tmp_path / "dino.safetensors"), "strip_prefix": ["teacher."]}
    options |= {"rename": [["^first", "conv_stem"]], "normalize": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    model = FaceClassifier(HEADS, backbone=SMALL, weights=options)
    assert torch.equal(model.backbone.conv_stem.weight, net.conv_stem.weight + 1)
    assert model.weight_report.share == 1
    assert model.normalization == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="asked for: all of it"):
        FaceClassifier(HEADS, backbone=SMALL, weights={**options, "strict": "all"})
    with pytest.raises(UserError, match="would both become"):
        FaceClassifier(HEADS, backbone=SMALL, weights={**options, "strip_prefix": ["teacher.", "student."]})


def test_a_checkpoint_needs_neither_file_nor_network():
    options = {"path": "gone.pth", "normalize": "half"}
    model = FaceClassifier(HEADS, backbone=SMALL, pretrained=True, weights=options, load_weights=False)
    assert model.weight_report is None
    assert model.normalization == ((0.5,) * 3, (0.5,) * 3)


class Planted:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_files_that_are_no_weights(tmp_path, capsys):
    def message(write) -> str:
        path = tmp_path / "weights.pth"
        write(path)
        with pytest.raises(UserError) as error:
            FaceClassifier(HEADS, backbone=SMALL, weights=str(path))
        assert "weights.pth" in str(error.value)
        return str(error.value)

    whole = tmp_path / "whole.pth"
    torch.save(timm.create_model(SMALL, num_classes=0).state_dict(), whole)
    damaged = whole.read_bytes()
    assert "begins with '<!DOCTYPE html>" in message(lambda path: path.write_text("<!DOCTYPE html><p>Sign in</p>"))
    assert "damaged" in message(lambda path: path.write_bytes(damaged[: len(damaged) // 2]))
    assert "ends too early" in message(lambda path: path.write_bytes(b""))
    assert "pickled" in message(lambda path: torch.save({"state_dict": Planted()}, path))
    assert "pickled torchvision.models.resnet.ResNet" in message(
        lambda path: torch.save(torchvision.models.resnet18(weights=None), path)
    )
    assert "no named tensors" in message(lambda path: torch.save([torch.ones(2)], path))
    assert "no named tensors" in message(lambda path: torch.save({"epoch": 1}, path))
    assert "0 of" in message(lambda path: torch.save({"a": torch.ones(2)}, path))
    assert "this must never run" not in capsys.readouterr().out


def test_weight_options_are_checked_all_at_once():
    with pytest.raises(UserError) as error:
        FaceClassifier(
            HEADS,
            backbone=SMALL,
            weights={"pth": "x", "strict": "of", "rename": [["(", ""]], "normalize": {"mean": [0.5]}, "sha256": "xyz"},
        )
    text = str(error.value)
    assert "no option 'pth'; did you mean 'path'" in text
    for option in ("path", "strict", "rename", "normalize", "sha256"):
        assert f"arch.args.weights.{option}: expected" in text


PRETRAINED = """
import sys, time
from pathlib import Path
import timm, torch
from safetensors.torch import save_file
from model.classifier import FaceClassifier
from utils.errors import UserError

name = "mobilenetv3_small_050"
start = time.monotonic()
try:
    FaceClassifier({"mask": 3}, backbone=name, pretrained=True)
except UserError as error:
    print(error)
print(time.monotonic() - start)

net = timm.create_model(name)
torch.nn.init.constant_(net.conv_stem.weight, 0.25)
repository = Path(sys.argv[1]) / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
(repository / "refs").mkdir(parents=True)
(repository / "refs" / "main").write_text("0123")
(repository / "snapshots" / "0123").mkdir(parents=True)
save_file(net.state_dict(), repository / "snapshots" / "0123" / "model.safetensors")
print(FaceClassifier({"mask": 3}, backbone=name, pretrained=True).backbone.conv_stem.weight.mean().item())
"""


def test_pretrained_without_network_says_so_soon_and_uses_the_cache(tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", PRETRAINED, str(tmp_path)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    said, seconds, mean = run.stdout.splitlines()
    assert said.startswith("arch.args.pretrained: the weights of 'mobilenetv3_small_050' could not be had")
    assert "arch.args.weights" in said
    assert '"pretrained": false' in said
    assert float(seconds) < 10
    assert float(mean) == 0.25


# ---------------------------------------------------------------- losses


COUNTS = torch.tensor([60.0, 30.0, 10.0])
Z = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.2, -0.1], [-1.0, 3.0, 1.0], [0.0, 0.0, 4.0]])
Y = torch.tensor([0, 2, 1, -1])


def test_only_losses_are_public():
    functions = [n for n, f in vars(loss).items() if getattr(f, "__module__", "") == loss.__name__ and n[0] != "_"]
    assert sorted(functions) == sorted(loss.__all__)
    assert sorted(metric.__all__) == ["accuracy", "balanced_accuracy", "macro_f1", "min_recall"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    rows = loss.cross_entropy(Z, Y, COUNTS, label_smoothing=smoothing)
    assert rows.shape == (4,)
    assert rows[3] == 0
    log_p = Z.log_softmax(1)
    expected = -(1 - smoothing) * log_p[torch.arange(3), Y[:3]] - smoothing * log_p[:3].mean(1)
    assert torch.allclose(rows[:3], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("class_weight", "ratios"),
    [
        ("inverse", [1 / 60, 1 / 30, 1 / 10]),
        ("effective", [0.001 / (1 - 0.999**n) for n in (60, 30, 10)]),
        ([1.0, 2.0, 5.0], [1.0, 2.0, 5.0]),
    ],
)
def test_class_weights_average_to_one_over_the_labeled_rows(class_weight, ratios):
    rows = loss.cross_entropy(Z, Y, COUNTS, class_weight=class_weight)
    weight = rows[:3] / F.cross_entropy(Z[:3], Y[:3], reduction="none")
    ratio = torch.tensor(ratios)
    expected = ratio * COUNTS.sum() / (ratio * COUNTS).sum()
    assert torch.allclose(weight, expected[Y[:3]], rtol=1e-4)
    assert torch.allclose(loss.focal(Z, Y, COUNTS, gamma=0.0, class_weight=class_weight), rows, atol=1e-6)


def test_focal_and_logit_adjustment():
    p = Z[:3].softmax(1)[torch.arange(3), Y[:3]]
    focal = loss.focal(Z, Y, COUNTS, gamma=2.0)
    assert torch.allclose(focal[:3], -((1 - p) ** 2) * p.log(), atol=1e-6)
    assert focal[3] == 0

    adjusted = loss.logit_adjustment(Z, Y, COUNTS, tau=0.5)
    weighted = Z[:3].exp() * (COUNTS / 100) ** 0.5
    assert torch.allclose(adjusted[:3], -(weighted[torch.arange(3), Y[:3]] / weighted.sum(1)).log(), atol=1e-6)
    # Balanced softmax: with logits equal to the log prior, tau 1 sees p proportional to the squared prior.
    prior = COUNTS / 100
    row = loss.logit_adjustment(prior.log()[None], torch.tensor([2]), COUNTS)
    assert row.item() == pytest.approx(-np.log(0.01 / (0.36 + 0.09 + 0.01)), abs=1e-5)


def test_losses_are_finite_and_float32():
    sure = torch.tensor([[100.0, -100.0, 0.0]], requires_grad=True)
    for function in (loss.cross_entropy, loss.logit_adjustment, loss.focal):
        rows = function(sure, torch.tensor([0]), torch.tensor([5.0, 0.0, 1.0]))
        rows.sum().backward()
        assert torch.isfinite(rows).all()
        with torch.autocast("cpu", torch.bfloat16):
            half = function(Z.bfloat16(), Y, COUNTS)
        assert half.dtype == torch.float32
    loss.focal(sure, torch.tensor([0]), COUNTS, gamma=0.5).sum().backward()
    assert torch.isfinite(sure.grad).all()


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (loss.cross_entropy, {"label_smoothing": 1.0}),
        (loss.cross_entropy, {"label_smoothing": -0.1}),
        (loss.cross_entropy, {"class_weight": [1.0, 2.0]}),
        (loss.cross_entropy, {"class_weight": "balanced"}),
        (loss.focal, {"class_weight": [0.0, 0.0, 0.0]}),
        (loss.focal, {"gamma": -1.0}),
    ],
)
def test_wrong_loss_options(function, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        function(Z, Y, COUNTS, **options)


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize("absent", ["none", "from labels", "from predictions", "from both"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_metrics_equal_sklearn(absent, dtype):
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3 if absent in ("from labels", "from both") else 4, 400)
    predicted = rng.integers(0, 3 if absent in ("from predictions", "from both") else 4, 400)
    predicted[:200] = np.minimum(target[:200], predicted.max())
    confusion = torch.zeros(4, 4, dtype=dtype)
    unlabeled = torch.tensor([-1, -1])
    confusion += confusion_matrix(torch.tensor(predicted[:150]), torch.tensor(target[:150]), 4).to(dtype)
    confusion += confusion_matrix(torch.tensor([0, 3]), unlabeled, 4).to(dtype)
    confusion += confusion_matrix(torch.tensor(predicted[150:]), torch.tensor(target[150:]), 4).to(dtype)
    assert confusion.sum() == 400
    assert metric.accuracy(confusion) == pytest.approx(accuracy_score(target, predicted), abs=1e-12)
    assert metric.macro_f1(confusion) == pytest.approx(f1_score(target, predicted, average="macro"), abs=1e-12)
    recalls = recall_score(target, predicted, average=None, labels=np.unique(target), zero_division=0)
    assert metric.balanced_accuracy(confusion) == pytest.approx(recalls.mean(), abs=1e-12)
    if absent in ("none", "from predictions"):
        expected = balanced_accuracy_score(target, predicted)
        assert metric.balanced_accuracy(confusion) == pytest.approx(expected, abs=1e-12)
    assert metric.min_recall(confusion) == pytest.approx(recalls.min(), abs=1e-12)


def test_metrics_of_nothing_are_nan():
    empty = torch.zeros(3, 3, dtype=torch.int64)
    assert all(np.isnan(getattr(metric, name)(empty)) for name in metric.__all__)
