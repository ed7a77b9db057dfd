"""Networks, chosen by name in a config (`arch.type`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base.base_model import BaseModel
from model.backbone import (
    Normalization,
    create_backbone,
    feature_size,
    normalization,
    parameters_up_to,
    required_size,
)
from model.branches import Branches, branch_off
from model.weights import WeightFile, WeightReport, WeightSpec
from utils.errors import UserError, check_heads, did_you_mean

__all__ = ["FaceClassifier"]

PROJECTION = 128  # as in the paper


class FaceClassifier(BaseModel):
    """A timm backbone, dropout and one linear classifier per head.

    heads: {head: number of classes}.
    backbone: timm's name. pretrained: with the weights of timm's hub, unless `weights` is given.
    weights: a local file, or {"path": …, options} (see `model.weights.WeightSpec`).
    freeze: "backbone", the name of a stage, or the number of stages to freeze with the stem; frozen batch norm layers
        keep their statistics.
    share: the heads share the stem and the stages up to this one (a name or a number) and have the others each of their
        own, for tasks that would compete for them; null: all.
    batch_norm: "frozen" keeps the statistics of the whole backbone while its weights train, as suits small batches.
    cosine_scale: logits are this times the cosine between the features and a class's weights, without a bias (Deng et
        al. 2019), as the loss `arcface` needs; null: linear.
    head: "abc" adds to each head a classifier trained on classes in equal shares, which is the one that evaluates (ABC,
        Lee et al. 2021; FixMatchTrainer), {head or "default": "plain" or "abc"} to some of them. "simclr" adds a
        projection of two layers, behind which the backbone is pretrained (Chen et al. 2020; SimCLRTrainer); the heads
        then have no gradient.
    load_weights: False if the state comes from a checkpoint; then neither network nor weight file is needed.
    """

    def __init__(
        self,
        heads: Mapping[str, int],
        *,
        backbone: str,
        pretrained: bool = False,
        weights: str | dict[str, Any] | None = None,
        dropout: float = 0.2,
        freeze: str | int | None = None,
        share: str | int | None = None,
        batch_norm: Literal["train", "frozen"] = "train",
        cosine_scale: float | None = None,
        head: Literal["plain", "abc", "simclr"] | dict[str, Literal["plain", "abc"]] = "plain",
        load_weights: bool = True,
    ):
        super().__init__()
        _check_arguments(heads, dropout, batch_norm, head, share, cosine_scale)
        spec = None if weights is None else WeightSpec.from_config(weights)
        self.backbone = create_backbone(backbone, pretrained=pretrained and load_weights and spec is None)
        self.weight_report: WeightReport | None = None
        file = WeightFile(spec) if spec is not None and load_weights else None
        in_branches = file is not None and share is not None and set(file.branches) == set(heads)
        if file is not None and not in_branches:
            self.weight_report = file.load_into(self.backbone, backbone)
        self.starts_random = not pretrained and spec is None
        self.normalization: Normalization = (spec and spec.normalization) or normalization(self.backbone)
        self.required_size = required_size(self.backbone)
        self.dropout = nn.Dropout(dropout)
        size = feature_size(self.backbone)

        def classifier(classes: int) -> nn.Module:
            return nn.Linear(size, classes) if cosine_scale is None else Cosines(size, classes, cosine_scale)

        self.heads = nn.ModuleDict({name: classifier(classes) for name, classes in heads.items()})
        balanced = {name: classes for name, classes in heads.items() if _kind_of(head, name) == "abc"}
        if balanced:
            self.balanced_heads = nn.ModuleDict({name: classifier(classes) for name, classes in balanced.items()})
        elif head == "simclr":
            self.heads.requires_grad_(False)
            self.projection = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, PROJECTION))
        frozen = self._freeze(freeze, batch_norm)
        if share is not None:
            self.backbone = branch_off(self.backbone, share, heads)
        if file is not None and in_branches:
            self.weight_report = file.load_into(self.backbone, backbone)
        self.frozen_batch_norms = tuple(
            f"backbone.{name}"
            for name, module in self.backbone.named_modules()
            if isinstance(module, _BatchNorm) and (name if share is None else Branches.name_uncut(name)) in frozen
        )
        self.train(self.training)

    @property
    def leaves_out_rows(self) -> bool:
        return isinstance(self.backbone, Branches) and not self.has_batch_norm

    def forward(self, images: Tensor, clean: int = 0, rows: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """images: float [N, 3, H, W], normalised, or their `features` [N, D]. Returns {head: logits}.

        The first `clean` rows get no dropout. rows: as in BaseModel, for branches. With a projection, training mode
        returns {"projection": [N, 128]}.
        """
        if images.ndim == 2:
            features = images
        else:
            features = self.features(images) if rows is None else self.backbone(images, rows)
        if self.projection is not None and self.training:
            return {"projection": self.projection(features)}
        if clean and self.training:
            features = torch.cat([features[:clean], self.dropout(features[clean:])])
        else:
            features = self.dropout(features)
        return self.classify(features)

    def features(self, images: Tensor) -> Tensor:
        """images: float [N, 3, H, W], with `normalization`. Returns [N, D], or [N, heads · D] of branches."""
        return self.backbone(images)

    def classify(self, features: Tensor) -> dict[str, Tensor]:
        """features: [N, D]. Returns {head: logits [N, C]}.

        Where a head has a balanced one: its logits; in training mode "head/balanced" beside "head".
        """
        of_head = dict.fromkeys(self.heads, features)
        if isinstance(self.backbone, Branches):
            of_head = dict(zip(self.heads, features.chunk(len(self.heads), dim=1), strict=True))
        balanced = {} if self.balanced_heads is None else dict(self.balanced_heads.items())
        if not self.training:
            return {name: linear(of_head[name]) for name, linear in {**dict(self.heads.items()), **balanced}.items()}
        logits = {name: linear(of_head[name]) for name, linear in self.heads.items()}
        return {**logits, **{f"{name}/balanced": linear(of_head[name]) for name, linear in balanced.items()}}

    def summary(self) -> str:
        """One line: the class, its parameters, and whether something random is kept as it is."""
        line = super().summary()
        keeps = self.frozen_batch_norms or not all(weight.requires_grad for weight in self.backbone.parameters())
        if not (self.starts_random and keeps):
            return line
        return (
            f"{line}; warning: parts of a network that starts from random weights are frozen: give arch.args.weights "
            "or pretrained, or set arch.args.batch_norm to train and arch.args.freeze to null"
        )

    def _freeze(self, freeze: str | int | None, batch_norm: str) -> set[str]:
        """Returns the names in the backbone of the batch norm layers that keep their statistics."""
        frozen = set() if freeze is None else set(parameters_up_to(self.backbone, freeze))
        for name, parameter in self.backbone.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        return {
            name
            for name, module in self.backbone.named_modules()
            if isinstance(module, _BatchNorm)
            and (batch_norm == "frozen" or freeze == "backbone" or f"{name}.weight" in frozen)
        }


class Cosines(nn.Module):
    """features [N, D] -> scale · cosine between them and the weights of each class, [N, C] in float32."""

    def __init__(self, size: int, classes: int, scale: float):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, size))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        # A scale of 30 on eight bits would leave logits a tenth apart.
        with torch.autocast(features.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(features.float()), F.normalize(self.weight.float()))


def check_logits(logits: Tensor, head: str) -> None:
    """Raises UserError if `logits` [N, C] are probabilities: a cross entropy on top would be a second softmax."""
    rows = logits.detach().float()
    if (
        len(rows)
        and bool((rows >= 0).all())
        and torch.allclose(rows.sum(dim=1), torch.ones(len(rows)).to(rows), atol=1e-2)
    ):
        raise UserError(
            f"arch: the output of head '{head}' is probabilities (every row is non-negative and sums to 1); "
            "return logits: leave the softmax out of the model's forward"
        )


def _kind_of(head: str | Mapping[str, str], name: str) -> str:
    return head if isinstance(head, str) else head.get(name, head.get("default", ""))


def _check_head(head: str | Mapping[str, str], heads: Mapping[str, int]) -> None:
    of_each = {"": head} if isinstance(head, str) else {f".{name}": kind for name, kind in head.items()}
    for key, kind in of_each.items():
        kinds = ["plain", "abc"] if key else ["plain", "abc", "simclr"]
        if kind not in kinds:
            raise UserError(f"arch.args.head{key}: '{kind}' is unknown{did_you_mean(kind, kinds)}")
    if not isinstance(head, str):
        check_heads(head, heads, "arch.args.head")


def _check_arguments(
    heads: Mapping[str, int],
    dropout: float,
    batch_norm: str,
    head: str | Mapping[str, str],
    share: str | int | None,
    cosine_scale: float | None,
) -> None:
    _check_head(head, heads)
    if cosine_scale is not None and (cosine_scale <= 0 or head == "simclr"):
        reason = "'simclr' fits linear classifiers" if head == "simclr" else f"must be above 0, not {cosine_scale}"
        raise UserError(f"arch.args.cosine_scale: {reason}; null makes the classifiers linear")
    if share is not None and (len(heads) < 2 or head == "simclr"):
        reason = "'simclr' trains none" if head == "simclr" else f"there is only '{next(iter(heads), '')}'"
        raise UserError(f"arch.args.share: is for several heads, and {reason}; set it to null")
    if not heads and head != "simclr":
        raise UserError("arch: a FaceClassifier needs at least one head, that is one attribute with labels")
    for name, classes in heads.items():
        # ModuleDict refuses a '.', the empty name and the names of its own methods ('type', 'keys', …); a '/' separates
        # the parts of a value's name in the log.
        if not name or "." in name or "/" in name or hasattr(nn.ModuleDict(), name):
            raise UserError(f"arch: '{name}' cannot be the name of a head; rename the attribute")
        if classes < 2:
            raise UserError(f"arch: head '{name}' has {classes} class(es); a classifier needs at least 2")
    if not 0 <= dropout < 1:
        raise UserError(f"arch.args.dropout: must be at least 0 and below 1, not {dropout}")
    if batch_norm not in ("train", "frozen"):
        raise UserError(
            f"arch.args.batch_norm: '{batch_norm}' is unknown{did_you_mean(batch_norm, ['train', 'frozen'])}"
        )
