"""Which pseudo-labels count, and how much: weights from weak-view probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.pseudo_label.processes import sum_with_gradient
from trainer.pseudo_label.running_mean import RunningMean
from trainer.pseudo_label.weak_batch import WeakBatch, one_hot

_EPSILON = 1e-12


class Threshold(nn.Module, ABC):
    """One head's threshold; its running state is in buffers. The trainer gives `classes` and `unlabeled_rows`.

    reads_labeled: it looks at the labeled rows. reads_rows: it remembers rows. weighs_all: no row has the weight 0.
    starts_open: every row passes at first, by design.
    """

    reads_labeled = False
    reads_rows = False
    weighs_all = False
    starts_open = False

    @abstractmethod
    def forward(self, batch: WeakBatch) -> Tensor:
        """Update the running state and return the weights [U] in [0, 1]."""

    @abstractmethod
    def per_class(self, classes: int) -> Tensor:
        """The effective threshold of each class at the last step, [C]."""

    def target(self, batch: WeakBatch) -> Tensor:
        """The pseudo-labels, int64 [U]."""
        return batch.target

    def regularization(self, strong_logits: Tensor, weight: Tensor) -> Tensor | None:
        """A term of the loss beside lambda_u · L_u, from this process's strong-view logits [U, C] and weights [U]."""
        return None


class fixed(Threshold):
    """FixMatch's threshold (Sohn et al. 2020): rows whose largest probability is at least `value`.

    value: in (0, 1].
    """

    def __init__(self, *, value: float = 0.95):
        super().__init__()
        self.value = _in_unit_interval(value)
        self.of_all: Tensor
        self.register_buffer("of_all", torch.tensor(value), persistent=False)

    def forward(self, batch: WeakBatch) -> Tensor:
        return batch.confidence.ge(self.value).to(batch.probs.dtype)

    def per_class(self, classes: int) -> Tensor:
        return self.of_all.expand(classes)


class flexmatch(Threshold):
    """Curriculum thresholds (FlexMatch, Zhang et al. 2021): lower for classes that few rows have been assigned to.

    T_c = value · b_c / (2 − b_c); b_c is the number of rows whose last confident prediction (≥ value) was c, relative
    to the largest class. As published, the first step has T = 0, so every row passes.

    value: in (0, 1].
    thresh_warmup: count the rows without a confident prediction as a class, so that all thresholds stay low until most
        rows have one.
    """

    reads_rows = True

    def __init__(self, classes: int, unlabeled_rows: int, *, value: float = 0.95, thresh_warmup: bool = True):
        super().__init__()
        self.value, self.thresh_warmup = _in_unit_interval(value), thresh_warmup
        self.starts_open = thresh_warmup
        self.stored: Tensor
        self.learned: Tensor
        self.used: Tensor
        # One more place than rows: it takes the predictions that are not confident.
        self.register_buffer("stored", torch.full((unlabeled_rows + 1,), -1, dtype=torch.int64))
        self.register_buffer("learned", torch.zeros(classes))
        self.register_buffer("used", torch.zeros(classes), persistent=False)

    def forward(self, batch: WeakBatch) -> Tensor:
        if batch.rows is None or not len(self.labels):
            raise ValueError("flexmatch needs to know which rows there are, and which of them the batch has")
        self.used.copy_(self.value * self.learned / (2 - self.learned))
        weight = batch.confidence.ge(self.used[batch.target]).to(batch.probs.dtype)
        confident = batch.confidence.ge(self.value)
        self.stored[torch.where(confident, batch.rows, len(self.labels))] = batch.target
        counts = one_hot(self.labels, len(self.learned)).sum(dim=0)
        without = len(self.labels) - counts.sum()
        most = torch.maximum(counts.max(), without) if self.thresh_warmup else counts.max()
        self.learned.copy_(counts / most.clamp(min=1))
        return weight

    @property
    def labels(self) -> Tensor:
        """The last confident prediction of each row, int64 [N], −1 before the first."""
        return self.stored[:-1]

    def per_class(self, classes: int) -> Tensor:
        return self.used


class freematch(Threshold):
    """Self-adaptive thresholds and fairness (FreeMatch, Wang et al. 2023).

    T_c = t · p_c / max p with running means t of the confidence and p of the probabilities, updated before they are
    used. The fairness term w_f · Σ a log b draws the classes of the strong view towards those of the weak view; a and b
    are mean probabilities divided by the histogram of predictions. It is a term of its own, as published: neither
    lambda_u nor its ramp changes w_f.

    momentum: of the running means, in [0, 1).
    w_f: factor of the fairness term, at least 0; with two classes not above 0.01.
    quantile: of the confidence, in (0, 1], in place of its mean (0.8 in some published code).
    clip: [lowest, highest] value of t.
    bias_correction: of the running means; false starts them at 1 / C, as published (see RunningMean).
    """

    def __init__(
        self,
        classes: int,
        *,
        momentum: float = 0.99,
        w_f: float = 0.01,
        quantile: float | None = None,
        clip: tuple[float, float] | None = None,
        bias_correction: bool = True,
    ):
        super().__init__()
        if w_f < 0:
            raise ValueError(f"w_f must be at least 0, got {w_f}")
        if clip is not None and not 0 <= clip[0] <= clip[1] <= 1:
            raise ValueError(f"clip must be [lowest, highest] in [0, 1], got {list(clip)}")
        self.w_f, self.clip = w_f, clip
        self.quantile = None if quantile is None else _in_unit_interval(quantile, "quantile")
        uniform = torch.full((classes,), 1 / classes)
        self.confidence = RunningMean(uniform[0], momentum, bias_correction)
        self.probs = RunningMean(uniform, momentum, bias_correction)
        self.histogram = RunningMean(uniform, momentum, bias_correction)

    def forward(self, batch: WeakBatch) -> Tensor:
        level = batch.confidence.mean() if self.quantile is None else batch.confidence.quantile(self.quantile)
        self.confidence(level)
        if self.clip is not None:
            self.confidence.value.clamp_(*self.clip)
        mean = self.probs(batch.probs.mean(dim=0))
        self.histogram(one_hot(batch.target, len(mean)).mean(dim=0))
        return batch.confidence.ge(self.per_class(len(mean))[batch.target]).to(batch.probs.dtype)

    def per_class(self, classes: int) -> Tensor:
        return self.confidence.value * self.probs.value / self.probs.value.max()

    def regularization(self, strong_logits: Tensor, weight: Tensor) -> Tensor | None:
        return self.w_f * self.fairness(strong_logits, weight) if self.w_f > 0 else None

    def fairness(self, strong_logits: Tensor, weight: Tensor) -> Tensor:
        """Σ a log b over the rows of weight > 0, 0 where there is none; strong_logits [U, C], weight [U]."""
        passed = (weight > 0).to(strong_logits.dtype)[:, None]
        probs = strong_logits.softmax(dim=1)
        total = sum_with_gradient((probs * passed).sum(dim=0))
        counts = sum_with_gradient((one_hot(probs.argmax(dim=1), probs.shape[1]) * passed).sum(dim=0))
        strong = _divided(total, counts)
        weak = _divided(self.probs.value, self.histogram.value)
        return (weak * (strong + _EPSILON).log()).sum() * (counts.sum() > 0)


class softmatch(Threshold):
    """Gaussian weights instead of a threshold (SoftMatch, Chen et al. 2023).

    exp(−(m − μ)² / (2 σ² / n_sigma²)) below the running mean μ of the confidence m, 1 above it. The confidence is that
    after `align` (the paper: uniform).

    per_class: μ and σ² of the rows predicted as each class, so that a class with low confidence is not weighted down by
        the others. μ_c moves with every batch that has a row of class c, σ²_c with one that has two.
    n_sigma: above 0; the larger, the sharper.
    momentum: of μ and σ², in [0, 1).
    labels: pseudo-labels from probabilities before alignment, as in the paper, or after it, as suits alignment to a
        prior.
    bias_correction: of μ and σ²; false starts them at 1 / C and 1, as published (see RunningMean).
    """

    weighs_all = True

    def __init__(
        self,
        classes: int,
        *,
        n_sigma: float = 2.0,
        momentum: float = 0.99,
        labels: Literal["unaligned", "aligned"] = "unaligned",
        per_class: bool = False,
        bias_correction: bool = True,
    ):
        super().__init__()
        if n_sigma <= 0:
            raise ValueError(f"n_sigma must be above 0, got {n_sigma}")
        self.n_sigma, self.labels, self.of_classes = n_sigma, labels, per_class
        start = torch.full((classes,) if per_class else (), 1 / classes)
        self.mean = RunningMean(start, momentum, bias_correction, each=per_class)
        self.variance = RunningMean(torch.ones_like(start), momentum, bias_correction, each=per_class)

    def forward(self, batch: WeakBatch) -> Tensor:
        if self.of_classes:
            mean, variance = (of_class[batch.target] for of_class in self._move_classes(batch))
        else:
            mean = self.mean(batch.confidence.mean())
            variance = self.variance(batch.confidence.var(correction=min(1, len(batch.confidence) - 1)))
        below = (batch.confidence - mean).clamp(max=0)
        return torch.exp(-(below**2) / (2 * variance / self.n_sigma**2).clamp(min=_EPSILON))

    def _move_classes(self, batch: WeakBatch) -> tuple[Tensor, Tensor]:
        """The running mean and variance [C] after the rows of this batch."""
        of_class = one_hot(batch.target, len(self.mean.value))
        rows = of_class.sum(dim=0)
        mean = (of_class * batch.confidence[:, None]).sum(dim=0) / rows.clamp(min=1)
        squares = of_class * (batch.confidence[:, None] - mean).square()
        variance = squares.sum(dim=0) / (rows - 1).clamp(min=1)
        return self.mean(mean, valid=rows > 0), self.variance(variance, valid=rows > 1)

    def target(self, batch: WeakBatch) -> Tensor:
        return batch.target if self.labels == "aligned" else batch.unaligned.argmax(dim=1)

    def per_class(self, classes: int) -> Tensor:
        return self.mean.value.expand(classes)


class adamatch(Threshold):
    """A threshold relative to the labeled rows (AdaMatch, Berthelot et al. 2022): value · mean confidence on them.

    value: in (0, 1]. The paper aligns too, as `align: estimated` does.
    """

    reads_labeled = True

    def __init__(self, *, value: float = 0.95):
        super().__init__()
        self.value = _in_unit_interval(value)
        self.labeled_confidence: Tensor
        self.register_buffer("labeled_confidence", torch.ones(()))

    def forward(self, batch: WeakBatch) -> Tensor:
        if batch.labeled is None:
            raise ValueError("adamatch needs the logits of the labeled rows")
        mean, any_known = batch.labeled.mean(batch.labeled.probs.max(dim=1).values)
        self.labeled_confidence.copy_(torch.where(any_known, mean, self.labeled_confidence))
        return batch.confidence.ge(self.value * self.labeled_confidence).to(batch.probs.dtype)

    def per_class(self, classes: int) -> Tensor:
        return (self.value * self.labeled_confidence).expand(classes)


def _in_unit_interval(value: float, name: str = "value") -> float:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}")
    return value


def _divided(probs: Tensor, histogram: Tensor) -> Tensor:
    """probs / histogram scaled to sum 1; 0 where a class was never predicted."""
    ratio = torch.where(histogram > 0, probs / histogram.clamp(min=_EPSILON), 0.0)
    return ratio / ratio.sum().clamp(min=_EPSILON)
