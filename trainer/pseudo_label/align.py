"""Distribution alignment of weak-view probabilities (ReMixMatch, Berthelot et al. 2020, §3.1).

An aligner is a `prior` whose target may move: `move_target` is all that a further one has to write.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.pseudo_label.running_mean import RunningMean, kept_share
from trainer.pseudo_label.weak_batch import Labeled

_EPSILON = 1e-6


def align(probs: Tensor, target: Tensor, running: Tensor) -> Tensor:
    """probs: [U, C] probabilities; target, running: [C] class distributions. Returns [U, C], rows sum to 1.

    Raises ValueError if a distribution has a negative entry or does not sum to 1.
    """
    for name, distribution in (("target", target), ("running", running)):
        if bool((distribution < 0).any()) or abs(float(distribution.sum()) - 1) > 1e-3:
            raise ValueError(f"{name} is not a distribution: {distribution.tolist()}")
    return _align(probs, target, running)


def _align(probs: Tensor, target: Tensor, running: Tensor) -> Tensor:
    scaled = probs * (target + _EPSILON) / (running + _EPSILON)
    return scaled / scaled.sum(dim=1, keepdim=True)


class prior(nn.Module):
    """Scale probabilities so that their running mean becomes the class distribution of the labels.

    momentum: of the running mean, in [0, 1).
    distribution: the target where the labels' own is not that of the unlabeled images (for example when as many labels
        of each class were drawn). In the labels' own a class without a label counts as one row.
    bias_correction: the running mean is the plain mean of the first batches (see RunningMean); false keeps the first
        batch's with momentum^n, as published.
    """

    on = True
    """Whether probabilities are aligned."""
    follows_network = False
    """Whether the target moves with what the network predicts, so that it follows a collapse."""
    reads_labeled = False
    """Whether it looks at the labeled rows."""

    def __init__(
        self,
        class_counts: Tensor,
        *,
        momentum: float = 0.99,
        distribution: list[float] | None = None,
        bias_correction: bool = True,
    ):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        own = class_counts.double().clamp(min=1)
        counts = own if distribution is None else torch.tensor(distribution, dtype=torch.float64)
        if len(counts) != len(class_counts) or bool((counts < 0).any()) or float(counts.sum()) <= 0:
            raise ValueError(f"distribution must be {len(class_counts)} shares ≥ 0, got {distribution}")
        self.momentum, self.given, self.bias_correction = momentum, distribution is not None, bias_correction
        self.target: Tensor
        self.running: Tensor
        self.updates: Tensor
        self.register_buffer("target", (counts / counts.sum()).float())
        self.register_buffer("running", torch.zeros(len(counts)))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, probs: Tensor, labeled: Labeled | None = None, progress: float = 0.0) -> Tensor:
        """probs [U, C] of the unlabeled rows -> aligned [U, C]; progress: share of the run that is done, in [0, 1]."""
        self.move_target(labeled, progress)
        mean = probs.mean(dim=0)
        if self.bias_correction:
            keep = kept_share(self.updates, self.momentum)
        else:
            keep = torch.where(self.updates == 0, 0.0, self.momentum)
        self.running.copy_(keep * self.running + (1 - keep) * mean)
        self.updates += 1
        return _align(probs, self.target, self.running)

    def move_target(self, labeled: Labeled | None, progress: float) -> None:
        """Called before each alignment; the labels' prior stays."""
        return None


class uniform(prior):
    """Alignment to equal shares: for data known to be balanced; on imbalanced data it invents minority labels.

    momentum, bias_correction: as in `prior`.
    """

    def __init__(self, class_counts: Tensor, *, momentum: float = 0.99, bias_correction: bool = True):
        equal = [1.0] * len(class_counts)
        super().__init__(class_counts, momentum=momentum, distribution=equal, bias_correction=bias_correction)
        self.given = False


class estimated(prior):
    """Alignment to the running mean of the predictions for the labeled rows (AdaMatch, Berthelot et al. 2022).

    It follows the labeled batches: with `sampler: balanced` that is nearly `uniform`.

    momentum: of both means, in [0, 1).
    bias_correction: of both means; false starts the labeled rows' at equal shares, as published.
    """

    follows_network = True
    reads_labeled = True

    def __init__(self, class_counts: Tensor, *, momentum: float = 0.99, bias_correction: bool = True):
        super().__init__(class_counts, momentum=momentum, bias_correction=bias_correction)
        equal = torch.full((len(class_counts),), 1 / len(class_counts))
        self.labeled = RunningMean(equal, momentum, bias_correction)

    def move_target(self, labeled: Labeled | None, progress: float) -> None:
        if labeled is None:
            raise ValueError("align: estimated needs the logits of the labeled rows")
        self.target.copy_(self.labeled(*labeled.mean(labeled.probs)))


class crest_plus(prior):
    """Alignment to prior^t, with t from 1 to t_min over the run (CReST+, Wei et al. 2021, §3.3): ever more balanced.

    t_min: t at the end, in [0, 1].
    generations: change t in this many equal parts of the run, at least 2; left out, t changes at every step.
    momentum, bias_correction: of the running mean, as in `prior`.
    distribution: shares in place of the labels' own.
    """

    def __init__(
        self,
        class_counts: Tensor,
        *,
        t_min: float = 0.5,
        generations: int | None = None,
        momentum: float = 0.99,
        distribution: list[float] | None = None,
        bias_correction: bool = True,
    ):
        super().__init__(class_counts, momentum=momentum, distribution=distribution, bias_correction=bias_correction)
        if not 0 <= t_min <= 1:
            raise ValueError(f"t_min must be in [0, 1], got {t_min}")
        if generations is not None and generations < 2:
            raise ValueError(f"generations must be at least 2, got {generations}")
        self.t_min, self.generations = t_min, generations
        self.start: Tensor
        self.register_buffer("start", self.target.clone(), persistent=False)

    def t(self, progress: float) -> float:
        """progress: share of the run that is done, in [0, 1]."""
        if self.generations is not None:
            generation = min(int(progress * self.generations), self.generations - 1)
            progress = generation / (self.generations - 1)
        return 1 - progress * (1 - self.t_min)

    def move_target(self, labeled: Labeled | None, progress: float) -> None:
        tempered = self.start ** self.t(progress)
        self.target.copy_(tempered / tempered.sum())
