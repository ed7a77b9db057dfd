"""Several heads scored as one answer, which is right where all heads are: what a competition may rank by."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from base.parts import Parts
from utils.joint import JOINT, has_joint
from utils.sums import confusion_matrix

_KEY = f"confusion/{JOINT}"


class JointScore:
    """`valid/joint/METRIC` for the metrics that all heads have, over the rows that are labeled for all of them.

    There is none for a single head, beside a head of that name, and for more than 36 combinations.
    """

    def __init__(self, parts: Parts):
        self.sizes = {head: len(names) for head, names in parts.data.classes.items()}
        of_heads = list(parts.metrics.values())
        common = of_heads[0].items() if has_joint(self.sizes) else ()
        self.metrics = {name: metric for name, metric in common if all(name in measured for measured in of_heads)}

    def names(self, split: str) -> set[str]:
        return {f"{split}/{JOINT}/{name}" for name in self.metrics}

    def count(self, decided: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums of a batch; decided, target: int64 [N] of each head, −1 for no label."""
        labeled = torch.stack([target[head] >= 0 for head in self.sizes]).all(dim=0)
        found, wanted = torch.zeros_like(labeled, dtype=torch.int64), torch.zeros_like(labeled, dtype=torch.int64)
        for head, size in self.sizes.items():
            found, wanted = found * size + decided[head], wanted * size + target[head]
        return {_KEY: confusion_matrix(found, torch.where(labeled, wanted, -1), prod(self.sizes.values()))}

    def values(self, split: str, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Nothing where no row is labeled for all heads."""
        if _KEY not in totals or not float(totals[_KEY].sum()):
            return {}
        return {f"{split}/{JOINT}/{name}": float(metric(totals[_KEY])) for name, metric in self.metrics.items()}
