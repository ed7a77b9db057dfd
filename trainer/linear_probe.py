"""What a backbone's features are worth: heads fitted to them (linear evaluation, Chen et al. 2020, §4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.base_dataset import Batch, to_device
from base.scoring import Normalize
from utils.distributed import sum_over_processes


@torch.no_grad()
def fit_heads(model: nn.Module, heads: Iterable[str], batches: Iterable[Batch], normalize: Normalize) -> None:
    """Replace each linear layer `heads.HEAD` of a model with the one that fits its `backbone` best.

    heads: those that some row has a label for. batches: of labeled rows, the stream `eval`; each process has its share.
    """
    modules = {head: model.get_submodule(f"heads.{head}") for head in heads}
    layers = {head: module for head, module in modules.items() if isinstance(module, nn.Linear)}
    backbone, was_training = model.get_submodule("backbone"), model.training
    model.eval()
    features: list[Tensor] = []
    targets: dict[str, list[Tensor]] = {head: [] for head in layers}
    for batch in batches:
        faces = to_device(batch, normalize.mean.device)["eval"]
        features.append(backbone(normalize(faces["image"])).float())
        for head in layers:
            targets[head].append(faces["target"][head])
    model.train(was_training)
    for head, layer in layers.items():
        rows = torch.cat(features) if features else layer.weight.new_zeros(0, layer.in_features)
        target = torch.cat(targets[head]) if features else torch.zeros(0, dtype=torch.int64, device=rows.device)
        weight, bias = fit_linear(rows[target >= 0], target[target >= 0], layer.out_features)
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def fit_linear(features: Tensor, target: Tensor, classes: int, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """weight float [C, D] and bias [C] of logistic regression with balanced classes, by L-BFGS from 0.

    features: float [N, D]; target: int64 [N] in [0, C). Minimised is the cross entropy summed over rows, each weighted
    N / (classes with a row · rows of its class), plus penalty / 2 · |weight|² for features of unit variance. Every
    process gives rows of its own, none of them perhaps, and all get the same result.
    """
    if features.device.type == "mps":  # has no float64
        features, target = features.cpu(), target.cpu()
    features = features.double()
    counts = sum_over_processes((target[:, None] == torch.arange(classes, device=target.device)).double().sum(dim=0))
    total = counts.sum()
    mean = sum_over_processes(features.sum(dim=0)) / total
    deviation = (sum_over_processes((features - mean).square().sum(dim=0)) / total).sqrt()
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0)
    standard = (features - mean) * scale
    row_weight = (total / ((counts > 0).sum() * counts.clamp(min=1)))[target]
    w, b = features.new_zeros(classes, features.shape[1]), features.new_zeros(classes)
    optimizer = torch.optim.LBFGS([w, b], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        z = standard @ w.T + b
        loss = (F.cross_entropy(z, target, reduction="none") * row_weight).sum()
        of_z = (z.softmax(dim=1) - F.one_hot(target, classes)) * row_weight[:, None]
        w.grad = sum_over_processes(of_z.T @ standard) + penalty * w
        b.grad = sum_over_processes(of_z.sum(dim=0))
        return sum_over_processes(loss) + penalty / 2 * w.square().sum()

    optimizer.step(closure)
    weight = w * scale
    return weight.float(), (b - weight @ mean).float()
