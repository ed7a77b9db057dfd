"""From the names that other programs give a network's tensors to those of timm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from utils.errors import UserError

Pattern = re.Pattern[str]

WRAPPER_PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "base_model.", "base_network."),
    *("encoder.", "feature_extractor."),
)
CLASSIFIER = re.compile(r"(fc|last_linear|classifier|head|heads)\.")
# What nn.Sequential(*resnet.children()) makes of a resnet, cut off anywhere: conv1 bn1 relu maxpool layer1 …
SEQUENTIAL_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
# Nets that torchvision and timm compute alike though they name the tensors differently; others pad differently or
# have another batch norm epsilon, which shapes cannot tell.
TORCHVISION_TWINS = {"mobilenetv2_100", "mnasnet_100", *(f"efficientnet_b{i}" for i in range(5))}

# The first pattern that one of a file's keys matches names the file's network.
LAYOUTS = {
    r"encoder\.layers\.encoder_layer_0\.": "torchvision vision transformer",
    r"features\.\d+\.\d+\.layer_scale": "torchvision convnext",
    r"features\.\d+\.\d+\.attn\.": "torchvision swin",
    r"features\.\d+\.\d+\.block\.\d+\.fc1\.": "torchvision efficientnet",
    r"features\.\d+\.conv\.\d": "torchvision mobilenet_v2",
    r"features\.\d+\.block\.\d": "torchvision mobilenet_v3",
    r"layers\.\d+\.0\.layers\.0\.": "torchvision mnasnet",
    r"trunk_output\.block1\.": "torchvision regnet",
    r"layer1\.0\.conv3\.": "resnet (bottleneck: resnet50, resnet101, …)",
    r"layer1\.0\.conv2\.": "resnet (basic: resnet18, resnet34)",
    r"features\.denseblock1\.": "densenet",
    r"layers\.0\.blocks\.0\.attn\.": "swin transformer",
    r"blocks\.0\.attn\.": "timm vision transformer",
    r"blocks\.0\.0\.conv_(pw|dw)\.": "timm efficientnet or mobilenet",
    r"stages\.0\.blocks\.0\.(conv_dw|gamma)": "timm convnext",
    r"features\.\d+\.(weight|bias)": "vgg or alexnet",
}


def backbone_keys(
    source: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    strip_prefix: str | list[str],
    rename: list[tuple[Pattern, str]],
    architecture: str,
) -> tuple[dict[str, str], list[str]]:
    """{key of the backbone: name in the file} for every tensor of the file, and notes on how it was found.

    Raises UserError if two tensors of the file would fill the same one of the backbone.
    """

    def stripped(name: str) -> str:
        prefixes = WRAPPER_PREFIXES if strip_prefix == "auto" else tuple(strip_prefix)
        while name not in wanted and (prefix := next((p for p in prefixes if p and name.startswith(p)), "")):
            name = name[len(prefix) :]
        for pattern, replacement in rename:
            name = pattern.sub(replacement, name)
        return name

    def from_sequential_resnet(name: str) -> str:
        name = stripped(name)
        number, _, rest = name.removeprefix("features.").partition(".")
        return f"{SEQUENTIAL_RESNET[number]}.{rest}" if number in SEQUENTIAL_RESNET else name

    keys = _rename(source, stripped, wanted)
    if "layer1.0.conv1.weight" in wanted and not any(key in wanted for key in keys):
        keys = _rename(source, from_sequential_resnet, wanted)
    if any(key in wanted for key in keys):
        return keys, []
    in_order = _match_in_order({key: source[name] for key, name in keys.items()}, wanted, architecture)
    if in_order:
        rest = {key: name for key, name in keys.items() if key not in in_order.values()}
        matched = {key: keys[other] for key, other in in_order.items()}
        return {**matched, **rest}, ["matched by order and shape, as the names differ"]
    return keys, []


def _rename(names: Iterable[str], rename: Callable[[str], str], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name in names:
        key = rename(name)
        if key in keys and key in wanted:
            raise UserError(
                f"arch.args.weights: '{keys[key]}' and '{name}' of the file would both become '{key}'; "
                'say which with strip_prefix, such as "strip_prefix": ["student."]'
            )
        keys[key if key not in keys else name] = name
    return keys


def _match_in_order(
    source: Mapping[str, Tensor], wanted: Mapping[str, Tensor], architecture: str
) -> dict[str, str] | None:
    """{key: other key} if, classifier aside, the two sequences agree in length, shapes and kinds of tensor."""
    others = [key for key in source if not CLASSIFIER.match(key)]
    if network_of(others).startswith("torchvision") and architecture.partition(".")[0] not in TORCHVISION_TWINS:
        return None

    def outline(tensors: Mapping[str, Tensor], keys: Iterable[str]) -> list[tuple[str, tuple[int, ...]]]:
        return [(key.rpartition(".")[2], tuple(tensors[key].shape)) for key in keys]

    return dict(zip(wanted, others)) if outline(source, others) == outline(wanted, wanted) else None


def network_of(keys: Iterable[str]) -> str:
    """The network whose names `keys` look like, or ''."""
    text = "\n".join(keys)
    return next((name for pattern, name in LAYOUTS.items() if re.search(f"^{pattern}", text, re.MULTILINE)), "")


def branches_of(keys: Iterable[str]) -> list[str]:
    """The heads that `model.branches` gave branches in a file with these keys."""
    found = (re.search(r"(^|\.)branches\.([^.]+)\.", key) for key in keys)
    return list(dict.fromkeys(match[2] for match in found if match))
