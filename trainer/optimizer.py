"""The optimizer of a config: groups of parameters, the fastest form of its update, and whether it can train here."""

from __future__ import annotations

import inspect

import torch

from base.base_model import BaseModel
from trainer.components import KINDS
from utils.config import Component, Config
from utils.errors import ConfigError

# One call for all tensors in place of a loop in Python. torch's default on the CPU is the loop, on CUDA foreach. The
# first have another last bit than the loop, the second the same.
FUSED = {"cpu": frozenset({"SGD", "Adam", "AdamW", "Adagrad"}), "cuda": frozenset({"SGD", "Adam", "AdamW"})}
EXACT_FOREACH = frozenset({"SGD", "Adam", "AdamW", "Adamax", "Adagrad", "RMSprop"})


def build_optimizer(config: Config, model: BaseModel) -> torch.optim.Optimizer:
    args = dict(config.optimizer.args)
    kind = KINDS["optimizer"].find(config.optimizer.type, config.where("optimizer"))
    defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
    lr, decay = ({**defaults, **args}.get(name, 0.0) for name in ("lr", "weight_decay"))
    groups = model.parameter_groups(float(lr), config.optimizer.backbone_lr, float(decay))
    if not groups:
        raise ConfigError("arch.args.freeze: nothing is left to train")
    device = next(model.parameters()).device
    if not args.keys() & {"foreach", "fused", "differentiable"}:
        if config.optimizer.type in FUSED.get(device.type, ()):
            args["fused"] = True
        elif device.type == "cpu" and config.optimizer.type in EXACT_FOREACH:
            args["foreach"] = True
    component = Component(type=config.optimizer.type, args=args)
    _try_optimizer(config, component, device)
    return KINDS["optimizer"].build(component, config.where("optimizer"), params=groups)


def _try_optimizer(config: Config, component: Component, device: torch.device) -> None:
    """One step of a small matrix: what only the step refuses (sparse gradients, a closure) is the config's mistake."""
    weight = torch.nn.Parameter(torch.zeros(2, 2, device=device))
    weight.grad = torch.zeros_like(weight)
    where = config.where("optimizer")
    try:
        KINDS["optimizer"].build(component, where, params=[weight]).step()
    except (TypeError, RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{where}: {component.type} with these args cannot train here: {reason}") from error
