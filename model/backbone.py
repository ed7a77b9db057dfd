"""Backbones: timm networks without their classifier, by timm's names."""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from torch import nn

from utils.errors import UserError, did_you_mean

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

_PROBE_SECONDS = 3
_WAYS_OUT = 'set arch.args.weights to a local file, or "pretrained": false'


def create_backbone(name: str, pretrained: bool = False) -> nn.Module:
    """The timm model `name` ("resnet50", "resnet50.a1_in1k"), which maps images [N, 3, H, W] to features [N, D].

    pretrained: with the weights of timm's hub, from the local cache or the network.
    Raises UserError if timm has no such model or weights, or if they cannot be had.
    """
    import timm  # imported late: it takes seconds, and `--help` and config errors must not

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(
            f"arch.args.backbone: timm has no model '{name}'{did_you_mean(architecture, timm.list_models())}"
        )
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UserError(f"arch.args.backbone: '{architecture}' has no weights named '{tag}'{did_you_mean(tag, tags)}")
    if pretrained and not tags:
        raise UserError(f"arch.args.pretrained: timm has no pretrained weights for '{name}'; {_WAYS_OUT}")
    return _without_dropout(_create_pretrained(name) if pretrained else timm.create_model(name, num_classes=0))


def _without_dropout(backbone: nn.Module) -> nn.Module:
    """Some of timm's networks drop a fifth of their features by default, besides what the config asks for."""
    for module in backbone.modules():
        if isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0  # type: ignore[assignment]
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return backbone


def _create_pretrained(name: str) -> nn.Module:
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    cached = _cached_file(config)
    overlay = {"file": cached} if cached else None
    source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    try:
        if not cached:
            _probe(source)
        return timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    except Exception as error:  # whatever a download, a proxy or a half-written cache may raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"arch.args.pretrained: the weights of '{name}' could not be had from {cached or source} ({reason[0]}); "
            f"{_WAYS_OUT}"
        ) from error


def _cached_file(config: Any) -> str | None:
    """The weights in the hub's local cache, which works without network."""
    from huggingface_hub import try_to_load_from_cache

    if config.hf_hub_id and not config.hf_hub_filename:
        for filename in ("model.safetensors", "pytorch_model.bin"):
            path = try_to_load_from_cache(config.hf_hub_id, filename)
            if isinstance(path, str):
                return path
    return None


def _probe(url: str) -> None:
    """Raises OSError if the host of `url` does not answer: the hub's own client would retry for most of a minute."""
    from huggingface_hub.constants import ENDPOINT

    host = ENDPOINT if url.startswith("https://huggingface.co/") else url
    try:
        urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        # The hub's client has certificates of its own.
        if isinstance(error.reason, ssl.SSLError):
            return
        raise OSError(f"no connection: {error.reason}") from error
    except TimeoutError as error:
        raise OSError(f"no answer within {_PROBE_SECONDS} s") from error


def normalization(backbone: nn.Module) -> Normalization:
    """(mean, std) per channel of the images in [0, 1] that the weights timm lists for this model were trained with."""
    config: Any = backbone.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def required_size(backbone: nn.Module) -> tuple[int, int] | None:
    """(height, width) of the images if the backbone takes no other, as most transformers do."""
    config: Any = backbone.pretrained_cfg
    return tuple(config["input_size"][1:]) if config.get("fixed_input_size") else None


def feature_size(backbone: nn.Module) -> int:
    """D of the features [N, D]."""
    size: Any = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return size


def stages(backbone: nn.Module) -> list[str]:
    """Names of the consecutive stages between stem and end: layer1…layer4, blocks.0…, stages.0…; may be empty.

    They are the numbered modules with one common name that hold most of the parameters.
    """
    families: dict[str, list[str]] = {}
    for name, module in backbone.named_children():
        inner = module.named_children() if isinstance(module, (nn.Sequential, nn.ModuleList)) else []
        for candidate in [name, *(f"{name}.{child}" for child, _ in inner)]:
            if (numbered := re.fullmatch(r"(.*?)\d+", candidate)) and _parameters(backbone, candidate):
                families.setdefault(numbered[1], []).append(candidate)
    consecutive = [family for family in families.values() if len(family) > 1]
    return max(consecutive, key=lambda family: sum(_parameters(backbone, name) for name in family), default=[])


def _parameters(backbone: nn.Module, name: str) -> int:
    return sum(parameter.numel() for parameter in backbone.get_submodule(name).parameters())


def parameters_up_to(backbone: nn.Module, stage: str | int) -> list[str]:
    """Names of the parameters that "freeze": `stage` freezes.

    stage: "backbone" for all; a stage's name for the stem and all stages up to and including it; a number n for the
    stem and the first n stages.
    Raises UserError, listing the choices, if the backbone has no such stage.
    """
    names = [name for name, _ in backbone.named_parameters()]
    if stage == "backbone":
        return names
    count = stage_number(backbone, stage, "arch.args.freeze", ["backbone"])
    if count:
        last = f"{stages(backbone)[count - 1]}."
        return names[: max(i for i, name in enumerate(names) if name.startswith(last)) + 1]
    first = f"{stages(backbone)[0]}."
    return names[: min(i for i, name in enumerate(names) if name.startswith(first))]


def stage_number(backbone: nn.Module, stage: str | int, where: str, further: Sequence[str] = ()) -> int:
    """How many stages lie up to and including `stage`, which is a stage's name or that number itself.

    Raises UserError, listing the choices and the `further` ones of the key `where`, if the backbone has no such stage.
    """
    choices = stages(backbone)
    if isinstance(stage, str) and stage in choices:
        return choices.index(stage) + 1
    if isinstance(stage, int) and not isinstance(stage, bool) and choices and 0 <= stage <= len(choices):
        return stage
    raise UserError(
        f"{where}: this backbone has no stage {stage!r}; choose from "
        + ", ".join([*further, *choices, *([f"0 to {len(choices)}"] if choices else []), "null"])
    )
