"""One backbone for several heads that share its first stages and have the later ones each of their own.

Tasks that compete for a layer each get one (branched multi-task networks: Vandenhende et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from model.backbone import required_size, stage_number, stages
from utils.errors import UserError

_PROBE_SIZE = 64


class Branches(nn.Module):
    """Maps images to the features of each head's branch, one beside the other: [N, heads · D]."""

    def __init__(self, trunk: nn.Module, branches: dict[str, nn.Module], last_stage: str):
        super().__init__()
        self.trunk, self.last_stage = trunk, last_stage
        self.branches = nn.ModuleDict(branches)

    def forward(self, images: Tensor, rows: Mapping[str, Tensor] | None = None) -> Tensor:
        """images: float [N, 3, H, W]. rows: {head: bool [N]}, those that its branch computes; the others get 0."""
        shared = self.trunk(images)
        if rows is None:
            return torch.cat([branch(shared) for branch in self.branches.values()], dim=1)
        return torch.cat([_some(branch, shared, rows[head]) for head, branch in self.branches.items()], dim=1)

    @staticmethod
    def name_uncut(name: str) -> str:
        """The name that a module or tensor of this had in the backbone before it was cut."""
        part, _, rest = name.partition(".")
        return rest if part == "trunk" else rest.partition(".")[2]


def branch_off(backbone: nn.Module, share: str | int, heads: Iterable[str]) -> Branches:
    """A backbone of which the heads share the stem and the stages up to `share`, with its weights in every branch.

    share: a stage's name, or how many stages.
    Raises UserError if there is no such stage, none or a frozen one behind it, or if the backbone cannot be cut there.
    """
    where = "arch.args.share"
    shared = stage_number(backbone, share, where)
    names = stages(backbone)
    if shared == len(names):
        raise UserError(f"{where}: {share!r} is the last stage, so nothing is left for a branch; null shares all")
    before, after = _cut(backbone, names[shared])
    if not _trains(backbone, after):
        trained = [number for number, name in enumerate(names) if _trains(backbone, [name])]
        advice = f"share at least {trained[0]}" if trained and trained[0] else "set it to null"
        raise UserError(
            f"{where}: arch.args.freeze freezes stages behind {share!r}, whose branches would be the same; {advice}"
        )
    trunk, branch = _without(backbone, after), _without(backbone, before)
    if isinstance(getattr(trunk, "global_pool", None), str):  # a transformer, which pools by this name
        trunk.global_pool = ""  # type: ignore[assignment]
    for name, _ in backbone.named_parameters(recurse=False):  # its position embedding and tokens are the stem's
        setattr(branch, name, None)
    found = Branches(trunk, {head: deepcopy(branch) for head in heads}, names[-1])
    if not _computes_the_same(backbone, trunk, branch):
        raise UserError(f"{where}: a {type(backbone).__name__} cannot be cut into stages; set it to null")
    return found


def _some(branch: nn.Module, shared: Tensor, rows: Tensor) -> Tensor:
    """[N, D]. One row is computed at least, since data-parallel training waits for gradients of every branch."""
    chosen = rows.nonzero()[:, 0]
    if len(chosen) == len(rows):
        return branch(shared)
    if not len(chosen):
        chosen = torch.zeros(1, dtype=torch.int64, device=rows.device)
    found = branch(shared[chosen])
    return found.new_zeros(len(rows), found.shape[1]).index_copy(0, chosen, found)


def _trains(backbone: nn.Module, names: Iterable[str]) -> bool:
    return all(weight.requires_grad for name in names for weight in backbone.get_submodule(name).parameters())


class _Passes(nn.Module):
    """Stands for what the other part computes."""

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        return x


def _cut(backbone: nn.Module, stage: str) -> tuple[list[str], list[str]]:
    """Names of the modules before `stage` and from it on, in the order of computing."""
    container = stage.rpartition(".")[0]
    names: list[str] = []
    for name, module in backbone.named_children():
        names += [f"{name}.{child}" for child, _ in module.named_children()] if name == container else [name]
    at = names.index(stage)
    return names[:at], names[at:]


def _without(backbone: nn.Module, names: Iterable[str]) -> nn.Module:
    copy = deepcopy(backbone)
    for name in names:
        copy.set_submodule(name, _Passes())
    return copy


@torch.no_grad()
def _computes_the_same(backbone: nn.Module, trunk: nn.Module, branch: nn.Module) -> bool:
    height, width = required_size(backbone) or (_PROBE_SIZE, _PROBE_SIZE)
    image = torch.linspace(-2, 2, 2 * 3 * height * width).sin().reshape(2, 3, height, width)
    modes = [(module, module.training) for module in (backbone, trunk, branch)]
    for module, _ in modes:
        module.eval()
    try:
        return torch.equal(branch(trunk(image)), backbone(image))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # whatever a part says to a wrong shape
        return False
    finally:
        for module, was_training in modes:
            module.train(was_training)
