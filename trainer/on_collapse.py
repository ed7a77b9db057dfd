"""What `trainer.args.on_collapse` does about the collapse guard's signs. Each function returns lines that say so."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trainer.collapse_guard import CollapseGuard
from trainer.collapse_signs import Sign
from trainer.pseudo_label.standby import Standby


def switch_alignment_on(labelers: nn.ModuleDict, signs: Sequence[Sign], epoch: int) -> list[str]:
    """Align the heads whose classes have wrong shares, where no alignment is on. epoch: finished epochs."""
    said = []
    for head in dict.fromkeys(sign.head for sign in signs if sign.head):
        aligner = labelers[head].align
        if isinstance(aligner, Standby) and not aligner.on:
            aligner.on = True
            said.append(
                f"{head}: as trainer.args.on_collapse asks, pseudo-labels are aligned to the labels' shares from epoch "
                f"{epoch + 1} on"
            )
    return said


def warm_up_again(guard: CollapseGuard, step: int, warm_up_steps: int, steps_per_epoch: int) -> list[str]:
    """Labeled images only for as many epochs as at the start, one at least. step: finished steps."""
    epochs = max(1, warm_up_steps // steps_per_epoch)
    guard.warm_up_until = step + epochs * steps_per_epoch
    first = step // steps_per_epoch + 1
    which = f"epoch {first} is" if epochs == 1 else f"epochs {first} to {first + epochs - 1} are"
    return [
        f"as trainer.args.on_collapse asks, {which} a warm-up again, of labeled images only; after it lambda_u is "
        "ramped up anew"
    ]
