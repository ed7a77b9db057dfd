"""How much the pseudo-labels of each class count in the consistency loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from model.class_weight import smoothed_adaptive_weights
from trainer.pseudo_label.running_mean import RunningMean


class ClassWeighting(nn.Module, ABC):
    """One head's class weights; their running state is in buffers. The trainer gives `classes` and `unlabeled_rows`."""

    @abstractmethod
    def forward(self, predicted: Tensor) -> Tensor:
        """Weights [C] of this step, at least 0; predicted [C]: the step's share of rows predicted as each class."""


class saw(ClassWeighting):
    """Smoothed adaptive weights of the unlabeled loss (SAW, Lai et al. 2022), the twin of the labeled one's
    `class_weight: saw`: 1 / effective number of rows predicted as each class, scaled to sum C.

    The rows are the running share of predictions, accepted or not, times the number of unlabeled rows; before the first
    step equal shares. (The paper predicts all rows after every epoch.)

    momentum: of the shares, in [0, 1).
    """

    def __init__(self, classes: int, unlabeled_rows: int, *, momentum: float = 0.99):
        super().__init__()
        self.unlabeled_rows = unlabeled_rows
        self.shares = RunningMean(torch.full((classes,), 1 / classes), momentum)

    def forward(self, predicted: Tensor) -> Tensor:
        weights = smoothed_adaptive_weights(self.shares.value * self.unlabeled_rows)
        self.shares(predicted)
        return weights
