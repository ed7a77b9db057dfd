"""The pseudo-labeling switches by name, and how they make the labelers of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from base.parts import Parts
from trainer.pseudo_label import align as align_module
from trainer.pseudo_label import class_weight as class_weight_module
from trainer.pseudo_label import debias as debias_module
from trainer.pseudo_label import threshold as threshold_module
from trainer.pseudo_label.balanced_head import BalancedHead
from trainer.pseudo_label.labeler import PseudoLabeler
from trainer.pseudo_label.unlabeled_rows import foreign_rows, own_places, unlabeled_rows
from utils.config import Config
from utils.config.components import Kind, Nested
from utils.config.layers import is_per_head
from utils.errors import ConfigError, check_heads

_COUNTS = frozenset({"class_counts"})
_ROWS = frozenset({"classes", "unlabeled_rows"})
PSEUDO_LABEL_KINDS = {
    "threshold": Kind("threshold", (threshold_module,), base=threshold_module.Threshold, provided=_ROWS),
    "align": Kind("align", (align_module,), base=nn.Module, provided=_COUNTS),
    "debias": Kind("debias", (debias_module,), base=debias_module.Debias, provided=_COUNTS),
    "class_weight": Kind(
        "class_weight", (class_weight_module,), base=class_weight_module.ClassWeighting, provided=_ROWS
    ),
}

Switch = dict[str, Any] | str | None
Threshold = Annotated[dict[str, Any] | str, Nested("threshold", per_head=True)]
Align = Annotated[Switch, Nested("align", per_head=True)]
Debias = Annotated[Switch, Nested("debias", per_head=True)]
ClassWeight = Annotated[Switch, Nested("class_weight", per_head=True)]


def build_labelers(
    parts: Parts, switches: Mapping[str, Switch], abc: Mapping[str, float], own_data_sets: bool = False
) -> tuple[Tensor, nn.ModuleDict, list[str]]:
    """The numbers of the rows that may come up unlabeled, ascending int64 [N], a PseudoLabeler for each head, notes.

    switches: of every kind, each the same for all heads or {head or "default": switch}. abc: arguments of BalancedHead.
    own_data_sets: a head learns from the unlabeled rows of its own data sets only (see `own_places`).
    Raises ConfigError for a head that there is not.
    """
    for kind, switch in switches.items():
        if isinstance(switch, dict) and is_per_head(switch):
            check_heads(switch, parts.data.classes, parts.config.where(f"trainer.args.{kind}"))
    for key in ("abc_threshold", "abc_weight"):
        if key in parts.config.trainer.args and parts.model.balanced_heads is None:
            raise ConfigError(f"{parts.config.where(f'trainer.args.{key}')}: needs arch.args.head abc")
    rows = unlabeled_rows(parts.data)
    of_own = own_places(parts.data, rows)
    labelers = {}
    for head, names in parts.data.classes.items():
        counts = parts.data.class_counts[head]
        chosen = {kind: _of_head(switch, head) for kind, switch in switches.items()}
        own = {kind: switch for kind, (_, switch) in chosen.items()}
        places = {kind: f"trainer.args.{kind}{key}" for kind, (key, _) in chosen.items()}
        of_head = of_own.get(head) if own_data_sets else None
        learned = len(rows) if of_head is None else int((of_head >= 0).sum())
        labelers[head] = build_labeler(
            names,
            counts,
            **own,
            unlabeled_rows=learned,
            row_places=of_head,
            places=places,
            where=parts.config.where,
            adjusted=_adjusts(parts.config, head),
        )
        _check_loss(parts.config, head, labelers[head])
        if head in (parts.model.balanced_heads or {}):
            labelers[head].balanced = BalancedHead(counts, **abc)
    return rows.to(parts.device), nn.ModuleDict(labelers).to(parts.device), foreign_rows(of_own, own_data_sets)


def build_labeler(
    classes: tuple[str, ...],
    class_counts: Tensor,
    threshold: Switch,
    align: Switch,
    debias: Switch,
    class_weight: Switch = None,
    unlabeled_rows: int = 0,
    row_places: Tensor | None = None,
    places: Mapping[str, str] | None = None,
    where: Callable[[str], str] = str,
    adjusted: bool = False,
) -> PseudoLabeler:
    """class_counts [C]: labels in use per class. A switch is a name or {"type", "args"}; null or "none" is off.

    unlabeled_rows: how many unlabeled rows this head learns from, for switches that need their number. row_places: as
    `places` of PseudoLabeler. places: {kind: key of the config}, where: as Config.where, for messages. adjusted: as in
    PseudoLabeler.
    """
    provided = {"class_counts": class_counts, "classes": len(classes), "unlabeled_rows": unlabeled_rows}
    switches = {"threshold": threshold, "align": align, "debias": debias, "class_weight": class_weight}
    modules: dict[str, Any] = {}
    for kind, switch in switches.items():
        component = {"type": switch, "args": {}} if isinstance(switch, str) else switch
        if component is None or component["type"] == "none":
            modules[kind] = None
            continue
        kinds, place = PSEUDO_LABEL_KINDS[kind], (places or {}).get(kind, f"trainer.args.{kind}")
        given = {name: value for name, value in provided.items() if name in kinds.provided}
        try:
            modules[kind] = kinds.build(component, place, **given)
        except ConfigError as error:
            raise ConfigError(_with_source(line, place, component, where) for line in error.problems) from error
    return PseudoLabeler(classes, class_counts, **modules, places=row_places, adjusted=adjusted)


def _with_source(line: str, place: str, component: Mapping[str, Any], where: Callable[[str], str]) -> str:
    """A problem of the component at `place`, after the file or -s that brought the argument that it is about."""
    said = line.removeprefix(place).replace(":", " ").split()
    named = next((word for word in said if word in component.get("args", {})), None)
    key = place if named is None else f"{place}.args.{named}"
    return where(key).removesuffix(key) + line


def _of_head(switch: Switch, head: str) -> tuple[str, Switch]:
    """(key below the switch, the switch) of a head."""
    if isinstance(switch, dict) and is_per_head(switch):
        key = head if head in switch else "default"
        return f".{key}", switch[key]
    return "", switch


def _adjusts_logits(loss: Mapping[str, Any] | str) -> bool:
    """Whether a loss, or a part of a mixture, adjusts logits by the labels' distribution."""
    name, args = (loss, {}) if isinstance(loss, str) else (loss["type"], loss.get("args", {}))
    return name == "logit_adjustment" or any(_adjusts_logits(part) for part in args.get("parts", ()))


def _adjusts(config: Config, head: str) -> bool:
    """Whether the head's supervised loss does."""
    loss = config.loss_of(head)
    return loss is not None and _adjusts_logits({"type": loss.type, "args": loss.args})


def _check_loss(config: Config, head: str, labeler: PseudoLabeler) -> None:
    if labeler.debias is not None and labeler.debias.adjusts_labeled and _adjusts(config, head):
        raise ConfigError(
            f"{config.where('trainer.args.debias')}: {type(labeler.debias).__name__} adjusts the labeled loss of "
            f"'{head}' itself; set loss.type to cross_entropy"
        )
