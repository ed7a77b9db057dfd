"""Several heads on one backbone: a loss of each, and how they add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from base.parts import Parts
from trainer.supervised import SupervisedTrainer, mean_over
from utils.config.components import Nested
from utils.distributed import sum_over_processes
from utils.errors import ConfigError


class MultiHeadTrainer(SupervisedTrainer):
    """One network, several heads; a row trains the heads that it has a label for. Each head's loss is logged.

    weighting: "fixed" adds the heads' losses up by `loss.HEAD.weight`; "uncertainty" learns the weights (Kendall et al.
        2018) and logs them.
    mix: how pairs of images are mixed; the targets stay pairs, share · L(own) + (1 - share) · L(partner's).
    """

    def __init__(
        self,
        parts: Parts,
        *,
        weighting: Literal["fixed", "uncertainty"] = "fixed",
        mix: Annotated[dict[str, Any] | str | None, Nested("mix")] = None,
    ):
        super().__init__(parts, mix=mix)
        if len(self.classes) < 2:
            raise ConfigError(
                f"{self.config.where('trainer.type')}: MultiHeadTrainer needs several attributes, the data has only "
                f"'{next(iter(self.classes))}'; set it to SupervisedTrainer"
            )
        self.uncertainty = UncertaintyWeights(len(self.classes)).to(self.device) if weighting == "uncertainty" else None
        weighted = [head for head, (_, weight) in parts.losses.items() if weight != 1]
        if self.uncertainty is not None and weighted:
            raise ConfigError(
                f"{self.config.where('loss')}: the head '{weighted[0]}' has a weight, but trainer.args.weighting "
                "uncertainty learns the weights; leave them out or set it to fixed"
            )

    def sum_of_heads(self, losses: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        for head, (loss, rows) in losses.items():
            self.sums.add({f"loss/{head}": loss, f"rows/{head}": rows})
        if self.uncertainty is None:
            return super().sum_of_heads(losses)
        counts = {head: self.rows_of(head, rows) for head, (_, rows) in losses.items()}
        means = torch.stack([mean_over(losses[head][0], counts[head]) for head in self.classes])
        present = torch.stack([counts[head] > 0 for head in self.classes])
        return self.uncertainty(means, present, 1 / self.config.trainer.accumulate)

    def epoch_values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        values = super().epoch_values(sums)
        for number, head in enumerate(self.classes):
            values[f"train/{head}/loss"] = float(sums[f"loss/{head}"] / sums[f"rows/{head}"])
            if self.uncertainty is not None:
                values[f"train/{head}/weight"] = float(self.uncertainty.weights()[number])
        return values

    def trainer_state(self) -> nn.Module | None:
        return self.uncertainty


class UncertaintyWeights(nn.Module):
    """L = Σ exp(-s) L_h + s / 2 with a log-variance s for each head (Kendall et al. 2018, equation 10).

    The log-variances are learned, by gradient descent of their own: they are no weights of the network, so neither its
    learning rate, schedule, weight decay and gradient clipping nor another optimizer's choice may move them. Where the
    losses stand still, s = log 2 L_h, so that every head has the weight 1 / (2 L_h).
    """

    def __init__(self, heads: int, lr: float = 0.02):
        super().__init__()
        self.lr = lr
        self.log_variances: Tensor
        self.register_buffer("log_variances", torch.zeros(heads))

    def weights(self) -> Tensor:
        """[H], the factors exp(-s) of the losses."""
        return torch.exp(-self.log_variances)

    def forward(self, losses: Tensor, present: Tensor, step: float = 1.0) -> Tensor:
        """The scalar loss; then one step of the log-variances, in training.

        losses: [H]; present: bool [H], heads with a labeled row in this batch, the others stay as they are. step: share
        of a whole step, where several batches make one.
        """
        weights = self.weights()
        loss = ((weights * losses + self.log_variances / 2) * present).sum()
        gradient = torch.stack([present * (0.5 - weights * losses.detach()), torch.ones_like(losses)])
        of_all, processes = sum_over_processes(gradient)
        self.log_variances -= step * self.lr * of_all / processes
        return loss
