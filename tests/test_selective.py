"""FixMatch that computes only the unlabeled rows with a weight: the same loss and gradients as with all rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from utils.errors import ConfigError

CLASSES = {"mask": ("wear", "incorrect", "normal"), "gender": ("male", "female")}
LABELED, UNLABELED = 4, 12


class Net(BaseModel):
    """A convolution, layer norm and two heads; counts the rows that it computes with gradient and without."""

    def __init__(self, norm: nn.Module | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm or nn.GELU(), nn.Flatten(), nn.LayerNorm(128))
        self.heads = nn.ModuleDict({head: nn.Linear(128, len(names)) for head, names in CLASSES.items()})
        self.rows = self.free = 0

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        self.rows += len(images) * torch.is_grad_enabled()
        self.free += len(images) * (not torch.is_grad_enabled())
        features = self.body(images)
        return {head: 2 * linear(features) for head, linear in self.heads.items()}


@pytest.fixture
def step(make_trainer):
    def run(threshold, selective: bool, **args):
        trainer = {"type": "FixMatchTrainer", "epochs": 2, "steps_per_epoch": 1, "monitor": "min train/loss"}
        trainer["args"] = {"threshold": threshold, "selective": selective, **args}
        optimizer = {"type": "SGD", "args": {"lr": 0.0}}
        made = make_trainer(Net(), CLASSES, optimizer=optimizer, trainer=trainer)
        generator = torch.Generator().manual_seed(1)

        def images(n: int) -> Tensor:
            return torch.randint(0, 256, (n, 4, 4, 3), dtype=torch.uint8, generator=generator)

        target = {h: torch.randint(-1, len(c), (LABELED,), generator=generator) for h, c in CLASSES.items()}
        unlabeled = {"weak": images(UNLABELED), "strong": images(UNLABELED), "row": torch.arange(UNLABELED)}
        made.unlabeled_rows = torch.arange(UNLABELED)
        made.network.train()
        loss = made.training_step({"labeled": {"image": images(LABELED), "target": target}, "unlabeled": unlabeled})
        loss.backward()
        reads_labeled = threshold["type"] == "adamatch"
        assert made.model.free == UNLABELED + LABELED * (selective and reads_labeled)
        gradients = torch.cat([p.grad.flatten() for p in made.model.parameters()])
        return loss.detach(), gradients, made.model.rows - LABELED, made.sums.read()

    return run


@pytest.mark.parametrize(
    ("threshold", "args", "rows"),
    [
        ({"type": "fixed", "args": {"value": 0.6}}, {"align": "prior"}, range(1, UNLABELED)),
        ({"type": "fixed", "args": {"value": 1.0}}, {}, range(1)),
        ({"type": "freematch", "args": {}}, {}, range(1, UNLABELED + 1)),
        ({"type": "adamatch", "args": {}}, {"align": "estimated"}, range(1, UNLABELED + 1)),
        ({"type": "fixed", "args": {"value": 0.6}}, {"debias": "simpro"}, range(1, UNLABELED)),
        ({"type": "fixed", "args": {"value": 0.6}}, {"debias": "debiaspl"}, range(1, UNLABELED)),
    ],
    ids=["some rows", "no row", "freematch", "labeled rows too", "labels counted", "debiased"],
)
def test_the_same_gradients_from_fewer_rows(step, threshold, args, rows):
    loss, gradients, all_rows, sums = step(threshold, False, **args)
    of_some, of_selected, computed, logged = step(threshold, True, **args)
    assert all_rows == UNLABELED and computed in rows
    torch.testing.assert_close(of_some, loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(of_selected, gradients, rtol=0, atol=1e-6)
    assert float(logged.pop("mean/strong_rows")) == pytest.approx(computed / UNLABELED)
    assert logged.keys() == sums.keys() and all(torch.allclose(logged[k], sums[k], atol=1e-5) for k in sums)


def test_refused_where_rows_depend_on_one_another(make_trainer):
    trainer = {"type": "FixMatchTrainer", "epochs": 1, "steps_per_epoch": 1, "monitor": "min train/loss"}
    optimizer = {"type": "SGD", "args": {"lr": 0.1}}

    def build(model: BaseModel, **args):
        made = {**trainer, "args": {"selective": True, **args}}
        return make_trainer(model, CLASSES, optimizer=optimizer, trainer=made)

    with pytest.raises(ConfigError, match=r'arch\.args\.batch_norm to "frozen"'):
        build(Net(nn.BatchNorm2d(8)))
    with pytest.raises(ConfigError, match="weak_forward to auto"):
        build(Net(), weak_forward="joint")
    with pytest.raises(ConfigError, match=r"selective: softmatch gives every row of 'mask' a weight"):
        build(Net(), threshold="softmatch")
    frozen = Net(nn.BatchNorm2d(8))
    frozen.frozen_batch_norms = ("body.1",)
    assert build(frozen).selective
