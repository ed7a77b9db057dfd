"""Adjusting logits by the class distribution, so that rare classes are neither lost nor invented."""

from __future__ import annotations

from torch import Tensor, nn


class logit_adjustment(nn.Module):
    """Consistency loss on z_s + tau · log prior (balanced softmax, Ren et al. 2020; Menon et al. 2021, eq. 10).

    It is the unlabeled twin of `loss: logit_adjustment`: the network's own logits stay those of balanced classes, and
    weak views are read as z_w + tau · log prior, the posterior under the labels' class distribution.
    """

    def __init__(self, class_counts: Tensor, *, tau: float = 1.0):
        super().__init__()
        prior = class_counts.double().clamp(min=1e-12)
        self.shift: Tensor
        self.register_buffer("shift", (tau * (prior / prior.sum()).log()).float())

    def pseudo(self, logits: Tensor) -> Tensor:
        """Weak-view logits [U, C] that pseudo-labels are read from."""
        return logits + self.shift

    def student(self, logits: Tensor) -> Tensor:
        """Strong-view logits [U, C] that the consistency loss sees."""
        return logits + self.shift
