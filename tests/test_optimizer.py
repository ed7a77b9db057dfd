"""Optimizers: the fastest form of the update, the same results in every memory layout, and what cannot train."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from base.speed import lay_out, lay_out_state
from tests.test_training import write_config
from trainer.optimizer import EXACT_FOREACH, FUSED, build_optimizer
from utils.config import config_from_dict


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 2)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", sorted(EXACT_FOREACH))
def test_optimizers_that_update_all_tensors_at_once_give_the_same_bits(name):
    found = []
    for foreach in (False, True):
        model, generator = network(), torch.Generator().manual_seed(1)
        args = {"lr": 0.01, "weight_decay": 0.01} | ({"momentum": 0.9, "nesterov": True} if name == "SGD" else {})
        optimizer = getattr(torch.optim, name)(model.parameters(), foreach=foreach, **args)
        for _ in range(5):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def parameter_groups(self, lr, backbone_lr, weight_decay):
        return [{"params": [*self.parameters()]}]


def made(name, model=None, **args):
    tree = {"name": "t", "dataset": {"type": "x"}, "arch": {"type": "x"}, "trainer": {"type": "x", "epochs": 1}}
    return build_optimizer(config_from_dict({**tree, "optimizer": {"type": name, "args": args}}, "t"), model or Model())


def test_the_fastest_form_is_the_default_and_the_config_has_the_last_word():
    for name in sorted(FUSED["cpu"]):
        assert made(name).defaults["fused"] and not made(name).defaults["foreach"]
        assert not made(name, foreach=True).defaults["fused"] and made(name, foreach=True).defaults["foreach"]
        assert made(name, fused=False).defaults["fused"] is False
    assert made("RMSprop").defaults["foreach"] and "fused" not in made("RAdam").defaults


@pytest.mark.parametrize("name", sorted(FUSED["cpu"]))
def test_fused_updates_are_those_of_the_loop_though_the_layout_changes(name):
    """The fused kernel on the CPU walks through memory: state in another order than the weight would be mixed up."""
    found = []
    for args in ({"fused": True}, {"foreach": False, "fused": False}):
        model, generator = Model(), torch.Generator().manual_seed(1)
        optimizer = made(name, model, lr=0.01, **args, **({"momentum": 0.9} if name == "SGD" else {}))
        for step, layout in enumerate((torch.channels_last, torch.contiguous_format, torch.channels_last)):
            lay_out(model, layout)
            if step == 2:  # a checkpoint of the other layout
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            lay_out_state(optimizer)
            for parameter in model.parameters():
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)  # autograd lays it out as the weight
            optimizer.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('optimizer.args={"lr": 0.1, "fused": true, "foreach": true}', "cannot be `True` together"),
        ('optimizer={"type": "SparseAdam", "args": {"lr": 0.1}}', "SparseAdam does not support dense gradients"),
        ('optimizer={"type": "LBFGS"}', "closure"),
        ('optimizer.args={"lr": 0.1, "foreach": true, "capturable": true}', "capturable=True"),
    ],
)
def test_mistakes(tmp_path, tiny_faces, in_process, change, said):
    done = in_process("train.py", "-c", str(write_config(tmp_path, tiny_faces)), "-d", "cpu", "-s", change)
    assert done.code == 2 and "optimizer" in done.err and said in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "saved" / "tiny").exists()
