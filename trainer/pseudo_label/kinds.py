"""The pseudo-labeling switches by name, and how they make a labeler."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainer.pseudo_label import align as align_module
from trainer.pseudo_label import debias as debias_module
from trainer.pseudo_label import threshold as threshold_module
from trainer.pseudo_label.labeler import PseudoLabeler
from utils.config.components import Kind

PSEUDO_LABEL_KINDS = {
    "threshold": Kind("threshold", (threshold_module,), base=nn.Module),
    "align": Kind("align", (align_module,), base=nn.Module, provided=frozenset({"class_counts"})),
    "debias": Kind("debias", (debias_module,), base=nn.Module, provided=frozenset({"class_counts"})),
}

Switch = dict[str, Any] | str | None


def build_labeler(
    classes: tuple[str, ...], class_counts: Tensor, threshold: Switch, align: Switch, debias: Switch
) -> PseudoLabeler:
    """class_counts [C]: labels in use per class. A switch is a name or {"type", "args"}; null or "none" is off."""
    modules: list[Any] = []
    for kind, switch in (("threshold", threshold), ("align", align), ("debias", debias)):
        component = {"type": switch, "args": {}} if isinstance(switch, str) else switch
        if component is None or component["type"] == "none":
            modules.append(None)
            continue
        provided = {} if kind == "threshold" else {"class_counts": class_counts}
        modules.append(PSEUDO_LABEL_KINDS[kind].build(component, f"trainer.args.{kind}", **provided))
    return PseudoLabeler(classes, class_counts, *modules)
