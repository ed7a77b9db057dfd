"""Our algorithms against inputs and outputs recorded from published implementations (see each vector's .json)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_model import BaseModel
from model.loss import cross_entropy
from trainer.contrastive import nt_xent
from trainer.lr_scheduler import cosine, cosine_716
from trainer.pseudo_label import align, debias, threshold
from trainer.pseudo_label.balanced_head import BalancedHead
from trainer.pseudo_label.labeler import PseudoLabeler
from trainer.pseudo_label.weak_batch import Labeled
from utils.ema import EMA

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> tuple[dict[str, Tensor], dict]:
    arrays = np.load(VECTORS / f"{name}.npz")
    args = json.loads((VECTORS / f"{name}.json").read_text())["args"]
    return {key: torch.from_numpy(arrays[key]) for key in arrays.files}, args


def names(prefix: str) -> list[str]:
    """Every stored vector of a kind, whatever its settings."""
    return sorted(path.stem for path in VECTORS.glob(f"{prefix}*.npz"))


def make_labeler(classes: int, *switches: nn.Module | None) -> PseudoLabeler:
    return PseudoLabeler(tuple("abcdefghij"[:classes]), torch.ones(classes), *switches)


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=rtol, atol=atol)


def starting_with(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


@pytest.mark.parametrize("name", names("fixmatch_c"))
def test_fixmatch_threshold_loss_over_all_rows_and_gradient(name: str):
    v, args = load(name)
    labeler = make_labeler(args["num_classes"], threshold.fixed(value=args["p_cutoff"]))
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
        soft = replace(labels, soft=v["logits_w"][step].softmax(dim=1))
        of_soft = labeler.consistency_loss(v["logits_s"][step], soft)
        torch.testing.assert_close(of_soft, v["unsup_loss_soft"][step], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", names("distalign_ema"))
def test_distribution_alignment(name: str):
    v, args = load(name)
    counts = torch.ones(args["num_classes"])
    aligner: align.prior
    if args["p_target_type"] == "model":
        aligner = align.estimated(counts, momentum=args["momentum"], bias_correction=False)
    else:
        target = args["p_target"] or counts.tolist()
        aligner = align.prior(counts, momentum=args["momentum"], distribution=target, bias_correction=False)
    for step in range(args["steps"]):
        labeled = v["logits_lb"][step].softmax(dim=1)
        aligned = aligner(v["logits_w"][step].softmax(dim=1), Labeled(labeled, torch.ones(len(labeled))))
        close(aligned, v["probs_aligned"][step])
        close(aligner.running, v["p_model_after"][step])
        close(aligner.target, v["p_target_after"][step])


@pytest.mark.parametrize("name", names("crestplus_dalign"))
def test_progressive_alignment(name: str):
    v, args = load(name)
    counts = torch.ones(args["num_classes"])
    t, target = args["cur_dist_align_t"], args["p_target"]
    aligner = align.crest_plus(counts, t_min=t, distribution=target, momentum=args["momentum"], bias_correction=False)
    for step in range(args["steps"]):
        aligned = aligner(v["logits_w"][step].softmax(dim=1), progress=1.0)
        close(aligned, v["probs_aligned"][step])
        close(aligner.running, v["p_model_after"][step])


@pytest.mark.parametrize("name", names("flexmatch"))
def test_flexmatch_thresholds_stored_labels_and_loss(name: str):
    v, args = load(name)
    curriculum = threshold.flexmatch(
        args["num_classes"], args["ulb_dest_len"], value=args["p_cutoff"], thresh_warmup=args["thresh_warmup"]
    )
    labeler = make_labeler(args["num_classes"], curriculum)
    for step in range(args["steps"]):
        labels = labeler(v["logits_w"][step], rows=v["idx_ulb"][step])
        assert torch.equal(labels.weight, v["mask"][step])
        assert torch.equal(labels.target, v["pseudo_label"][step])
        assert torch.equal(curriculum.labels, v["selected_label_after"][step])
        close(curriculum.per_class(args["num_classes"]), v["class_threshold_used"][step], rtol=1e-6)
        close(curriculum.learned, v["classwise_acc_after"][step], rtol=1e-6)
        close(labeler.consistency_loss(v["logits_s"][step], labels), v["unsup_loss"][step], rtol=1e-6)


@pytest.mark.parametrize("name", names("freematch"))
def test_freematch_thresholds_fairness_and_gradient(name: str):
    v, args = load(name)
    adaptive = threshold.freematch(
        args["num_classes"],
        momentum=args["ema_p"],
        quantile=args["quantile"] if args["use_quantile"] else None,
        clip=tuple(args["clip"]) if args["clip_thresh"] else None,
        bias_correction=False,
    )
    labeler = make_labeler(args["num_classes"], adaptive)
    for step in range(args["steps"]):
        labels = labeler(v["logits_w"][step])
        assert torch.equal(labels.weight, v["mask"][step])
        assert torch.equal(labels.target, v["pseudo_label"][step])
        close(adaptive.confidence.value, v["time_p_after"][step])
        close(adaptive.probs.value, v["p_model_after"][step])
        close(adaptive.histogram.value, v["label_hist_after"][step])
        close(adaptive.per_class(args["num_classes"]), v["class_threshold_used"][step])
        strong = v["logits_s"][step].clone().requires_grad_()
        close(labeler.consistency_loss(strong, labels), v["unsup_loss"][step])
        fairness = adaptive.fairness(strong, labels.weight)
        fairness.backward()
        close(fairness, v["ent_loss"][step])
        close(strong.grad, v["grad_logits_s_ent"][step], atol=1e-6)


@pytest.mark.parametrize("name", names("softmatch"))
def test_softmatch_weights_with_alignment(name: str):
    v, args = load(name)
    counts, momentum = torch.ones(args["num_classes"]), args["ema_p"]
    aligner: align.prior | None = None
    if args["dist_align"]:
        model_target = not args["dist_uniform"]
        aligner = align.estimated(counts, momentum=momentum, bias_correction=False) if model_target else None
        aligner = aligner or align.uniform(counts, momentum=momentum, bias_correction=False)
    soft = threshold.softmatch(len(counts), n_sigma=args["n_sigma"], momentum=momentum, bias_correction=False)
    labeler = make_labeler(len(counts), soft, aligner)
    for step in range(args["steps"]):
        labels = labeler(v["logits_w"][step], v["logits_lb"][step], v["y_lb"][step])
        close(labels.weight, v["weight"][step], atol=1e-6)
        assert torch.equal(labels.target, v["pseudo_label"][step])
        close(soft.mean.value, v["mu_after"][step])
        close(soft.variance.value, v["var_after"][step])
        if aligner is not None:
            close(aligner.running, v["p_model_after"][step])
        close(labeler.consistency_loss(v["logits_s"][step], labels), v["unsup_loss"][step])


@pytest.mark.parametrize("name", names("adamatch"))
def test_adamatch_relative_threshold_and_estimated_alignment(name: str):
    v, args = load(name)
    counts = torch.ones(args["num_classes"])
    relative = threshold.adamatch(value=args["p_cutoff"])
    aligner = align.estimated(counts, momentum=args["ema_p"], bias_correction=False)
    labeler = make_labeler(len(counts), relative, aligner)
    for step in range(args["steps"]):
        labels = labeler(v["logits_w"][step], v["logits_lb"][step], v["y_lb"][step])
        assert torch.equal(labels.weight, v["mask"][step])
        assert torch.equal(labels.target, v["pseudo_label"][step])
        close(labels.confidence, v["probs_aligned"][step].max(dim=1).values)
        close(relative.per_class(1)[0], v["rel_threshold"][step])
        close(labeler.consistency_loss(v["logits_s"][step], labels), v["unsup_loss"][step])


@pytest.mark.parametrize("name", names("debiaspl"))
def test_debiased_pseudo_labels_and_adaptive_margin(name: str):
    v, args = load(name)
    counts = torch.ones(args["num_classes"])
    debiaser = debias.debiaspl(counts, tau=args["tau"], momentum=args["qhat_m"], bias_correction=False)
    labeler = make_labeler(len(counts), threshold.fixed(value=args["threshold"]), None, debiaser)
    for step in range(args["steps"]):
        close(debiaser.mean.value, v["qhat_before"][step][0])
        close(debiaser.pseudo(v["logits_w"][step]).softmax(dim=1), v["pseudo_probs"][step])
        labels = labeler(v["logits_w"][step])
        assert torch.equal(labels.weight, v["mask"][step])
        assert torch.equal(labels.target, v["pseudo_label"][step])
        close(debiaser.mean.value, v["qhat_after"][step][0])
        close(debiaser.student(v["logits_s"][step]), v["adjusted_logits_s"][step])
        close(labeler.consistency_loss(v["logits_s"][step], labels), v["unsup_loss"][step])
    assert float((debiaser.mean.value - 1 / len(counts)).abs().max()) > 0.01, "the estimate does not move"


@pytest.mark.parametrize("name", names("simpro"))
def test_simpro_soft_labels_losses_and_estimates(name: str):
    v, args = load(name)
    start = v["adjustment"][0].div(args["tau"]).exp()
    estimator = debias.simpro(start, tau=args["tau"], momentum=args["ema_u"], every=1)
    labeler = make_labeler(args["num_classes"], threshold.fixed(value=args["threshold"]), None, estimator)
    for step in range(args["steps"]):
        labels = labeler(v["logits_w"][step], v["logits_lb"][step], v["y_lb"][step])
        assert torch.equal(labels.weight, v["mask"][step])
        close(labels.soft, v["pseudo_label"][step])
        of_views = [labeler.consistency_loss(v[view][step], labels) for view in ("logits_s", "logits_u_s1")]
        close(sum(of_views) / 2, v["Lu"][step])
        both = torch.cat([v["logits_lb"][step], v["logits_l_s"][step]])
        supervised = F.cross_entropy(labeler.labeled_logits(both), v["y_lb"][step].repeat(2))
        close(supervised / args["scale_ratio"], v["Lx"][step])
        estimator.start_step()
        close(estimator.unlabeled.value, v["estimated_dis"][step])
        close(estimator.drawn.value, v["adapt_dis"][step])


@pytest.mark.parametrize("name", names("abc"))
def test_balanced_head_keeps_rows_and_averages_over_all(name: str):
    v, args = load(name)
    head = BalancedHead(torch.tensor(args["lb_counts"]), threshold=args["abc_p_cutoff"])
    for step in range(args["steps"]):
        progress, labels = step / args["steps"], v["y_lb"][step]
        weak, strong = v["logits_w"][step], v["logits_s"][step]
        close(head.keep_labeled(labels), v["keep_prob_lb"][step])
        close(head.keep_unlabeled(weak.argmax(dim=1), progress), v["keep_prob_ulb"][step])
        loss = head.labeled_loss(v["logits_lb"][step], labels, v["mask_lb"][step])
        loss = loss + head.consistency_loss(weak, strong, progress, v["mask_ulb"][step])
        close(loss, v["abc_loss"][step], rtol=1e-6)


@pytest.mark.parametrize("name", names("saw_weights"))
def test_saw_class_weights(name: str):
    v, _ = load(name)
    classes = len(v["counts"])
    # With equal logits every row's loss is its class's weight times log C.
    loss = cross_entropy(torch.zeros(classes, classes), torch.arange(classes), v["counts"], class_weight="saw")
    close(loss / np.log(classes), v["weights"])


@pytest.mark.parametrize("name", names("ntxent"))
def test_nt_xent(name: str):
    v, args = load(name)
    for temperature in args["temperatures"]:
        for source in ("", "pml_"):
            close(nt_xent(v["z0"], v["z1"], temperature), v[f"loss_{source}T{temperature}"])


def test_ema_averages_parameters_and_copies_buffers():
    v, args = load("kekmodel_ema")

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))

    live = net()
    live.load_state_dict(starting_with("init.", v))
    ema = EMA(live, args["decay"], warm_up=False)
    for step in range(args["steps"]):
        live.load_state_dict(starting_with(f"model{step}.", v))
        ema.update()
        for name, expected in starting_with(f"ema{step}.", v).items():
            torch.testing.assert_close(ema.model.state_dict()[name], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", [cosine, cosine_716])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"total_steps": -1}, "total_steps must be at least 0, got -1"),
        ({"total_steps": 9, "warm_up": -1}, "warm_up must be at least 0, got -1"),
        ({"total_steps": 9, "warm_up": 10}, "warm_up must not be more than the 9 steps of the schedule, got 10"),
    ],
)
def test_schedules_refuse_lengths_that_cannot_be(schedule, args: dict[str, int], said: str):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError, match=said):
        schedule(optimizer, **args)
    schedule(optimizer, total_steps=9, warm_up=9)


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
