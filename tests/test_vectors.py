"""Our algorithms against inputs and outputs recorded from published implementations (see each vector's .json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_model import BaseModel
from trainer.lr_scheduler import cosine_716
from trainer.pseudo_label import align, threshold
from trainer.pseudo_label.labeler import PseudoLabeler
from utils.ema import EMA

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> tuple[dict[str, Tensor], dict]:
    arrays = np.load(VECTORS / f"{name}.npz")
    args = json.loads((VECTORS / f"{name}.json").read_text())["args"]
    return {key: torch.from_numpy(arrays[key]) for key in arrays.files}, args


def starting_with(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def test_fixmatch_threshold_loss_over_all_rows_and_gradient():
    v, args = load("fixmatch_c3_p95")
    labeler = PseudoLabeler(("a", "b", "c"), torch.ones(3), threshold.fixed(value=args["p_cutoff"]))
    for step in range(args["steps"]):
        labels = labeler(v["logits_w"][step])
        assert torch.equal(labels.weight, v["mask"][step])
        assert torch.equal(labels.target, v["pseudo_label"][step])
        strong = v["logits_s"][step].clone().requires_grad_()
        loss = labeler.consistency_loss(strong, labels)
        loss.backward()
        supervised = F.cross_entropy(v["logits_lb"][step], v["y_lb"][step])
        torch.testing.assert_close(loss, v["unsup_loss"][step], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(strong.grad, v["grad_logits_s"][step], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(supervised + args["lambda_u"] * loss, v["total_loss"][step], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["distalign_ema_c3_gt", "distalign_ema_c3_uniform"])
def test_distribution_alignment(name: str):
    v, args = load(name)
    target = args["p_target"] or [1.0, 1.0, 1.0]
    aligner = align.prior(torch.ones(3), momentum=args["momentum"], distribution=target)
    for step in range(args["steps"]):
        aligned = aligner(v["logits_w"][step].softmax(dim=1))
        torch.testing.assert_close(aligned, v["probs_aligned"][step].float(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(aligner.running, v["p_model_after"][step].float(), rtol=1e-5, atol=1e-7)


def test_ema_averages_parameters_and_copies_buffers():
    v, args = load("kekmodel_ema")

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))

    live = net()
    live.load_state_dict(starting_with("init.", v))
    ema = EMA(live, args["decay"], warm_up=False)
    for step in range(args["steps"]):
        live.load_state_dict(starting_with(f"model{step}.", v))
        ema.update(live)
        for name, expected in starting_with(f"ema{step}.", v).items():
            torch.testing.assert_close(ema.model.state_dict()[name], expected, rtol=1e-6, atol=1e-7)


def test_cosine_716_schedule():
    v, args = load("cosine716_warm0")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args["base_lr"])
    scheduler = cosine_716(optimizer, total_steps=args["total"])
    for expected in v["lr"].tolist()[:-1]:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


class TinyNet(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(8, momentum=0.001, eps=0.001)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12, momentum=0.001, eps=0.001)
        self.fc = nn.Linear(12, 3)

    def forward(self, images: Tensor, clean: int = 0) -> dict[str, Tensor]:
        x = F.leaky_relu(self.bn1(self.conv1(images)), 0.1)
        x = F.leaky_relu(self.bn2(self.conv2(x)), 0.1)
        return {"label": self.fc(x.mean(dim=(2, 3)))}


def test_whole_fixmatch_training_steps(make_trainer):
    """Twelve steps of FixMatchTrainer itself: losses, final weights, averaged weights."""
    v, args = load("fixmatch_loop_tiny_c3")
    model = TinyNet()
    model.load_state_dict(starting_with("init.", v))
    trainer = make_trainer(
        model,
        classes={"label": ("a", "b", "c")},
        trainer={
            "type": "FixMatchTrainer",
            "args": {"threshold": {"type": "fixed", "args": {"value": args["p_cutoff"]}}},
            "epochs": 1,
            "steps_per_epoch": args["steps"],
            "ema": args["ema"],
        },
        optimizer={
            "type": "SGD",
            "args": {
                "lr": args["lr"],
                "momentum": args["momentum"],
                "nesterov": True,
                "weight_decay": args["weight_decay"],
            },
        },
        lr_scheduler={"type": "cosine_716", "interval": "step"},
    )
    trainer.ema.warm_up = False
    trainer.normalize = lambda images: images
    trainer.network.train()
    for step in range(args["steps"]):
        trainer.sums.clear()
        total = trainer.train_on(
            {
                "labeled": {"image": v["x_lb"][step], "target": {"label": v["y_lb"][step]}},
                "unlabeled": {"weak": v["x_ulb_w"][step], "strong": v["x_ulb_s"][step]},
            }
        )
        seen = trainer.epoch_values(trainer.sums.read())
        assert float(total) == pytest.approx(float(v["total"][step]), rel=1e-4)
        assert seen["train/loss_labeled"] == pytest.approx(float(v["sup"][step]), rel=1e-4)
        assert seen["train/loss_unlabeled"] == pytest.approx(float(v["unsup"][step]), rel=1e-4, abs=1e-7)
        assert seen["train/label/pass_rate"] == pytest.approx(float(v["util"][step]), rel=1e-6)
    for name, expected in starting_with("final.", v).items():
        torch.testing.assert_close(model.state_dict()[name], expected, atol=1e-5, rtol=1e-4)
    for name, expected in starting_with("ema.", v).items():
        torch.testing.assert_close(trainer.ema.model.state_dict()[name], expected, atol=1e-5, rtol=1e-4)
