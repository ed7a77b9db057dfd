"""Every combination of FixMatch's switches learns from unlabeled rows and is not plain FixMatch."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.test_pseudo_label import FIXED, LinearNet, batch, start, train  # noqa: F401
from trainer.components import KINDS
from trainer.pseudo_label.kinds import build_labeler
from trainer.selective import only

THRESHOLDS: dict[str, Any] = {
    "fixed": FIXED,
    "flexmatch": {"type": "flexmatch", "args": {"value": 0.6}},
    "freematch": {"type": "freematch", "args": {"momentum": 0.9}},
    "softmatch": "softmatch",
    "adamatch": {"type": "adamatch", "args": {"value": 0.9}},
}
ALIGNS = ("none", "prior", "uniform", "estimated", "crest_plus")
DEBIASES = ("none", "logit_adjustment", "debiaspl", "simpro")
SAW = {"class_weight": {"type": "saw", "args": {"momentum": 0.5}}}
STEPS = 3


def test_the_matrix_is_complete():
    assert set(THRESHOLDS) == set(KINDS["threshold"].names())
    assert set(ALIGNS) == {"none", *KINDS["align"].names()} and set(DEBIASES) == {"none", *KINDS["debias"].names()}


def weights(trainer: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def unlabeled_gradient(trainer: Any) -> Tensor:
    """What lambda_u adds to the gradient at the present weights; the running statistics move alike in both."""
    gradients = []
    state = {name: value.clone() for name, value in trainer.labelers.state_dict().items()}
    for lambda_u in (0.0, 1.0):
        trainer.labelers.load_state_dict(state)
        trainer.lambda_u = lambda_u
        trainer.parts.optimizer.zero_grad()
        torch.manual_seed(0)
        trainer.training_step(batch(STEPS, 3)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()]))
    return gradients[1] - gradients[0]


@pytest.mark.parametrize("head", ["plain", "abc"])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_combination_has_a_gradient_moves_and_differs(start, threshold: str, head: str):  # noqa: F811
    untrained, plain = LinearNet(3, head == "abc"), start(3, head == "abc", threshold=FIXED)
    train(plain, range(STEPS), 3)
    for align, debias in itertools.product(ALIGNS, DEBIASES):
        said = f"{threshold} {align} {debias} {head}"
        trainer = start(3, head == "abc", threshold=THRESHOLDS[threshold], align=align, debias=debias)
        assert np.isfinite(train(trainer, range(STEPS), 3)).all(), said
        for now, then in zip(trainer.model.parameters(), untrained.parameters()):
            assert not torch.equal(now, then), f"{said}: a parameter does not move"
        same = all(torch.equal(a, b) for a, b in zip(weights(trainer), weights(plain)))
        assert same == ((threshold, align, debias) == ("fixed", "none", "none")), f"{said}: the same as plain FixMatch"
        assert unlabeled_gradient(trainer).norm() > 1e-4, f"{said}: nothing is learned from unlabeled rows"


def test_saw_of_the_loss_weighs_labeled_rows_and_saw_of_the_trainer_pseudo_labels(start):  # noqa: F811
    plain, weighted, both = start(3, threshold=FIXED), start(3, threshold=FIXED), start(3, threshold=FIXED, **SAW)
    saw = partial(
        KINDS["loss"].find("cross_entropy", "loss"), class_counts=torch.tensor([80.0, 15, 5]), class_weight="saw"
    )
    for trainer in (weighted, both):
        trainer.parts.losses = {"label": (saw, 1.0)}
    torch.testing.assert_close(unlabeled_gradient(plain), unlabeled_gradient(weighted))
    for trainer in (plain, weighted, both):
        train(trainer, range(STEPS), 3)
    assert all(not torch.equal(a, b) for a, b in zip(weights(plain), weights(weighted)))
    assert all(not torch.equal(a, b) for a, b in zip(weights(weighted), weights(both)))


def test_saw_weighs_pseudo_labels_by_the_effective_number_of_their_class():
    """Lai et al. 2022: (1 - b) / (1 - b^n), b = (N - 1) / N, N the mean count, sum C; equal shares before step 1."""
    labeler = build_labeler(("a", "b"), torch.ones(2), FIXED, None, None, "saw", 200)
    logits = torch.tensor([[3.0, 0]] * 9 + [[0, 3.0]])
    first, second = labeler(logits), labeler(logits)
    torch.testing.assert_close(first.factor, torch.ones(10))
    beta = 99 / 100
    of_class = np.array([(1 - beta) / (1 - beta**count) for count in (180, 20)])
    wanted = 2 * of_class / of_class.sum()
    np.testing.assert_allclose(second.factor[[0, 9]], wanted, rtol=1e-5)
    assert wanted[1] == pytest.approx(1.6423535)
    strong = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    rows = F.cross_entropy(strong, second.target, reduction="none") * torch.tensor([wanted[0]] * 9 + [wanted[1]])
    torch.testing.assert_close(labeler.consistency_loss(strong, second), rows.mean().float())
    kept = only(second, torch.arange(10) >= 8)
    torch.testing.assert_close(labeler.consistency_loss(strong[8:], kept, 10), rows[8:].sum().float() / 10)
