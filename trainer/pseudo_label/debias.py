"""Adjusting logits by a class distribution, so that rare classes are neither lost nor invented."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from trainer.pseudo_label.running_mean import RunningMean


class Debias(nn.Module, ABC):
    """The logits of one head as its losses and pseudo-labels see them; running state is in buffers.

    A step calls `start_step`, `pseudo`, `update`, then `labeled` and `student`.
    soft_targets: the pseudo-labels are probabilities. adjusts_labeled: the supervised loss is adjusted here, so the
    config's loss must not do it again. counts_labels: it needs the labels of each step per class. goes_with_align: the
    pseudo-labels may be aligned as well.
    """

    soft_targets = False
    counts_labels = False
    adjusts_labeled = False
    goes_with_align = True

    def start_step(self) -> None:
        """Before anything else of a step."""
        return None

    @abstractmethod
    def pseudo(self, logits: Tensor) -> Tensor:
        """Weak-view logits [U, C] that pseudo-labels are read from."""

    @abstractmethod
    def student(self, logits: Tensor) -> Tensor:
        """Strong-view logits [U, C] that the consistency loss sees."""

    def labeled(self, logits: Tensor) -> Tensor:
        """Logits [L, C] of the labeled rows that the supervised loss sees."""
        return logits

    def update(self, logits: Tensor, probs: Tensor, weight: Tensor, label_counts: Tensor) -> None:
        """Of all processes: weak-view logits, pseudo-label probabilities [U, C], weights [U], labels per class [C]."""
        return None


class logit_adjustment(Debias):
    """Consistency loss on z_s + tau · log prior (balanced softmax, Ren et al. 2020; Menon et al. 2021, eq. 10).

    It is the unlabeled twin of `loss: logit_adjustment`: the network's own logits stay those of balanced classes, and
    weak views are read as z_w + weak_tau · log prior. A class without a label counts as one row, as in that loss.

    tau: strength for strong views, at least 0.
    weak_tau: strength for weak views, at least 0, left out: tau. 1 is the posterior under the labels' class
        distribution, in which a rare class needs far more evidence to pass a threshold than a common one; 0 asks the
        same evidence of all.
    """

    def __init__(self, class_counts: Tensor, *, tau: float = 1.0, weak_tau: float | None = None):
        super().__init__()
        _check_tau(tau)
        self.weak_tau, self.tau = _check_tau(tau if weak_tau is None else weak_tau, "weak_tau"), tau
        prior = class_counts.double().clamp(min=1)
        self.log_prior: Tensor
        self.register_buffer("log_prior", (prior / prior.sum()).log().float())

    def pseudo(self, logits: Tensor) -> Tensor:
        return logits + self.weak_tau * self.log_prior

    def student(self, logits: Tensor) -> Tensor:
        return logits + self.tau * self.log_prior


class debiaspl(Debias):
    """Debiased pseudo-labels and adaptive margin (DebiasPL, Wang et al. 2022): z_w − tau · log q, z_s + tau · log q.

    q is the running mean of the weak view's own probabilities, over all rows, updated between the two.

    tau: strength, at least 0.
    momentum: of q, in [0, 1).
    bias_correction: of q; false starts it at equal shares, as published (see RunningMean).
    """

    def __init__(self, class_counts: Tensor, *, tau: float = 0.5, momentum: float = 0.99, bias_correction: bool = True):
        super().__init__()
        _check_tau(tau)
        self.tau = tau
        self.mean = RunningMean(torch.full((len(class_counts),), 1 / len(class_counts)), momentum, bias_correction)

    def pseudo(self, logits: Tensor) -> Tensor:
        return logits - self.tau * _log(self.mean.value)

    def student(self, logits: Tensor) -> Tensor:
        return logits + self.tau * _log(self.mean.value)

    def update(self, logits: Tensor, probs: Tensor, weight: Tensor, label_counts: Tensor) -> None:
        self.mean(logits.softmax(dim=1).mean(dim=0))


class simpro(Debias):
    """Estimated class distributions (SimPro, Du et al. 2024) where that of the unlabeled images is not the labels'.

    Soft pseudo-labels from z_w + tau · log π_u; labeled rows and strong views are trained on z + tau · log π, so use it
    with `loss: cross_entropy`. π_u is the running distribution of the accepted pseudo-labels, π that of these and the
    labels drawn; the former starts at equal shares, the latter at the labels' distribution, in which a class without a
    label counts as one row.

    tau: strength, at least 0.
    momentum: of π_u and π, in [0, 1).
    every: steps, that is batches, between their updates (in the paper an epoch of 500).
    """

    soft_targets = True
    adjusts_labeled = True
    counts_labels = True
    goes_with_align = False

    def __init__(self, class_counts: Tensor, *, tau: float = 1.0, momentum: float = 0.9, every: int = 20):
        super().__init__()
        _check_tau(tau)
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.tau, self.every = tau, every
        counts = torch.where(class_counts > 0, class_counts.float(), 1)
        equal = torch.full((len(class_counts),), 1 / len(class_counts))
        self.unlabeled = RunningMean(equal, momentum, bias_correction=False)
        self.drawn = RunningMean(counts / counts.sum(), momentum, bias_correction=False)
        self.accepted: Tensor
        self.labels: Tensor
        self.steps: Tensor
        self.register_buffer("accepted", torch.zeros_like(counts))
        self.register_buffer("labels", torch.zeros_like(counts))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def start_step(self) -> None:
        """Move the estimates after every `every` steps; the step that completes them still trains with the former."""
        due = self.steps >= self.every
        both = self.accepted + self.labels
        self.unlabeled(self.accepted / (self.accepted.sum() + 1), valid=due)
        self.drawn(both / both.sum().clamp(min=1e-12), valid=due)
        for count in (self.accepted, self.labels, self.steps):
            count.masked_fill_(due, 0)

    def pseudo(self, logits: Tensor) -> Tensor:
        return logits + self.tau * _log(self.unlabeled.value)

    def student(self, logits: Tensor) -> Tensor:
        return logits + self.tau * _log(self.drawn.value)

    def labeled(self, logits: Tensor) -> Tensor:
        return self.student(logits)

    def update(self, logits: Tensor, probs: Tensor, weight: Tensor, label_counts: Tensor) -> None:
        self.accepted += (probs * weight[:, None]).sum(dim=0)
        self.labels += label_counts
        self.steps += 1


def _check_tau(tau: float, name: str = "tau") -> float:
    if tau < 0:
        raise ValueError(f"{name} must be at least 0, got {tau}")
    return tau


def _log(shares: Tensor) -> Tensor:
    return shares.clamp(min=1e-12).log()
