"""The pseudo-labeling switches by name, and how they make the labelers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from base.parts import Parts
from trainer.pseudo_label import align as align_module
from trainer.pseudo_label import debias as debias_module
from trainer.pseudo_label import threshold as threshold_module
from trainer.pseudo_label.balanced_head import BalancedHead
from trainer.pseudo_label.labeler import PseudoLabeler
from utils.config import Config
from utils.config.components import Kind
from utils.config.layers import is_per_head
from utils.errors import ConfigError, did_you_mean

_COUNTS = frozenset({"class_counts"})
PSEUDO_LABEL_KINDS = {
    "threshold": Kind(
        "threshold",
        (threshold_module,),
        base=threshold_module.Threshold,
        provided=frozenset({"classes", "unlabeled_rows"}),
    ),
    "align": Kind("align", (align_module,), base=nn.Module, provided=_COUNTS),
    "debias": Kind("debias", (debias_module,), base=debias_module.Debias, provided=_COUNTS),
}

Switch = dict[str, Any] | str | None


def build_labelers(parts: Parts, threshold: Switch, align: Switch, debias: Switch) -> tuple[Tensor, nn.ModuleDict]:
    """The numbers of the run's unlabeled rows, ascending int64 [N], and a PseudoLabeler for each head.

    A switch is the same for all heads or {head or "default": switch}. Raises ConfigError for a head that there is not.
    """
    switches = {"threshold": threshold, "align": align, "debias": debias}
    for kind, switch in switches.items():
        _check_heads(switch, parts.data.classes, parts.config.where(f"trainer.args.{kind}"))
    streams = getattr(parts.data, "streams", {})
    rows = torch.as_tensor(streams["unlabeled"][0].rows if "unlabeled" in streams else [], dtype=torch.int64)
    labelers = {}
    for head, names in parts.data.classes.items():
        counts = parts.data.class_counts[head]
        own = {kind: _of_head(switch, head) for kind, switch in switches.items()}
        labelers[head] = build_labeler(names, counts, **own, unlabeled_rows=len(rows))
        _check_loss(parts.config, head, labelers[head])
        if parts.model.balanced_heads is not None:
            labelers[head].balanced = BalancedHead(counts)
    return rows.sort().values.to(parts.device), nn.ModuleDict(labelers).to(parts.device)


def build_labeler(
    classes: tuple[str, ...],
    class_counts: Tensor,
    threshold: Switch,
    align: Switch,
    debias: Switch,
    unlabeled_rows: int = 0,
) -> PseudoLabeler:
    """class_counts [C]: labels in use per class. A switch is a name or {"type", "args"}; null or "none" is off.

    unlabeled_rows: how many unlabeled rows the run has, for thresholds that remember each of them.
    """
    provided = {"class_counts": class_counts, "classes": len(classes), "unlabeled_rows": unlabeled_rows}
    modules: list[Any] = []
    for kind, switch in (("threshold", threshold), ("align", align), ("debias", debias)):
        component = {"type": switch, "args": {}} if isinstance(switch, str) else switch
        if component is None or component["type"] == "none":
            modules.append(None)
            continue
        kinds = PSEUDO_LABEL_KINDS[kind]
        given = {name: value for name, value in provided.items() if name in kinds.provided}
        modules.append(kinds.build(component, f"trainer.args.{kind}", **given))
    return PseudoLabeler(classes, class_counts, *modules)


def _check_heads(switch: Switch, heads: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError, beginning with `where`, if a switch per head is not about these heads."""
    if not isinstance(switch, dict) or not is_per_head(switch):
        return
    for name in switch:
        if name != "default" and name not in heads:
            raise ConfigError(f"{where}: no head '{name}'{did_you_mean(name, heads)}")
    left = [head for head in heads if head not in switch]
    if left and "default" not in switch:
        raise ConfigError(f"{where}: nothing for the head '{left[0]}' and no 'default'")


def _of_head(switch: Switch, head: str) -> Switch:
    if isinstance(switch, dict) and is_per_head(switch):
        return switch[head] if head in switch else switch["default"]
    return switch


def _check_loss(config: Config, head: str, labeler: PseudoLabeler) -> None:
    loss = config.loss.get(head, config.loss.get("default")) if isinstance(config.loss, dict) else config.loss
    if labeler.debias is not None and labeler.debias.adjusts_labeled and loss and loss.type == "logit_adjustment":
        raise ConfigError(
            f"{config.where('trainer.args.debias')}: {type(labeler.debias).__name__} adjusts the labeled loss of "
            f"'{head}' itself; set loss.type to cross_entropy"
        )
