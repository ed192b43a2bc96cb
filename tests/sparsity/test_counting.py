"""Counts of what a network costs, against torch's own counter and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxsparse
from fxsparse.models import build
from fxsparse.sparsity import find_targets
from fxsparse.sparsity.counting import Meter, nonzeros, profile
from fxsparse.training import OneShot


def counted(model: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """MACs of a forward pass, and of the backward pass that follows it, by torch."""
    counter = FlopCounterMode(display=False)
    model.train()
    with counter:
        output = model(inputs)
    forward = counter.get_total_flops()
    with counter:
        output.sum().backward()
    return forward // 2, counter.get_total_flops() // 2


@pytest.mark.parametrize("spec", ["fxsparse:resnet20", "fxsparse:resnet18"])
def test_against_torchs_counter(spec: str) -> None:
    model = build(spec).model
    inputs = torch.zeros(2, 3, 16, 16)
    costs = profile(model, inputs)
    forward, backward = counted(model, inputs)
    assert costs.macs() == forward
    assert costs.backward() == backward


@pytest.mark.parametrize("edit", ["share-weights", "insert-dyrelu", "share-weights,insert-dyrelu", "prune{macs=0.5,criterion=magnitude}"])
def test_changed_networks_against_torchs_counter(edit: str) -> None:
    inputs = torch.zeros(2, 3, 16, 16)
    module = fxsparse.Pipeline.parse(edit)(fxsparse.trace(build("fxsparse:resnet20").model, (inputs,))).network.module
    costs = profile(module, inputs)
    assert (costs.macs(), costs.backward()) == counted(module.eval(), inputs)
    assert costs.parameters == sum(p.numel() for p in module.parameters())
    everything = {name: p.numel() for name, p in module.named_parameters()}  # masks that hide nothing
    assert (costs.macs(everything), costs.backward(everything)) == (costs.macs(), costs.backward())


def test_grouped_transposed_and_recurrent_layers() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 8, 3, groups=2, padding=1)
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.up(self.grouped(x)).flatten(2).mT
            out: Tensor = self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0])
            return out

    model, inputs = Mixed(), torch.randn(1, 4, 4, 4)
    costs = profile(model, inputs)
    layers = {layer.name: layer.macs for layer in costs.layers()}
    assert layers["grouped.weight"] == 16 * 8 * 2 * 9
    assert layers["up.weight"] == 16 * 8 * 4 * 4
    assert layers["attention.in_proj_weight"] == 64 * 12 * 4
    assert layers["attention.out_proj.weight"] == 64 * 4 * 4
    assert layers["head.weight"] == 64 * 12
    assert costs.macs() == sum(layers.values()) + 2 * 64 * 64 * 4  # and the two products of activations


def test_masked_networks_cost_what_lives() -> None:
    model = build("fxsparse:resnet20").model
    inputs = torch.zeros(1, 3, 32, 32)
    dense = profile(model, inputs)
    assert dense.macs() == 40_551_040 and dense.parameters == sum(p.numel() for p in model.parameters())
    sparsifier = OneShot(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.1)
    living = sparsifier.nonzeros
    assert {name: nonzeros(model)[name] for name in living} == living
    by_hand = 0
    for layer in dense.layers(living):
        assert layer.nonzeros == living[layer.name]
        by_hand += layer.macs * living[layer.name] // layer.parameters
        assert layer.sparse_macs == layer.macs * living[layer.name] // layer.parameters
    assert dense.macs(living) == by_hand
    assert dense.nonzeros(living) == dense.parameters - (268_336 - 26_834)
    assert dense.backward(living) < dense.backward(living, dense_gradients=True) < dense.backward()


def test_tied_weights_count_once_and_cost_twice() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.weight).relu(), self.weight * self.scale)

    costs = profile(Tied(), torch.zeros(1, 4))
    (layer,) = costs.layers({"weight": 8})
    assert (layer.parameters, layer.uses, layer.macs, layer.sparse_macs, layer.nonzeros) == (16, 2, 32, 16, 8)
    assert costs.parameters == 17


def test_pruned_networks() -> None:
    net = fxsparse.trace(build("fxsparse:resnet20").model, (torch.zeros(1, 3, 16, 16),))
    group = next(group for group in net.groups if group.name == "layer1.0.conv1")
    small = net.shrink({group.name: [0, 1, 2, 3]})
    assert profile(net.module, torch.zeros(1, 3, 16, 16)).macs() == net.macs
    assert profile(small.module, torch.zeros(1, 3, 16, 16)).macs() == small.macs == net.macs - 2 * 256 * 12 * 16 * 9


def test_profiling_changes_nothing() -> None:
    model = build("fxsparse:resnet20").model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile(model, torch.randn(2, 3, 16, 16))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_meter_adds_steps() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    costs, meter = profile(model, torch.zeros(1, 4)), Meter()
    meter.step(costs, 10, None)
    assert (meter.forward, meter.backward, meter.exploration) == (10 * 48, 10 * (32 + 2 * 16), 0)
    half = {"0.weight": 16, "2.weight": 8}
    meter.step(costs, 10, half)
    meter.step(costs, 10, half, dense_gradients=True, exploring=True)
    assert meter.forward == 10 * (48 + 24 + 24)
    assert meter.backward == 10 * ((32 + 2 * 16) + (16 + 2 * 8) + (32 + 16 + 8))
    assert meter.exploration == 10 * (24 + 56)
    assert len(find_targets(model)) == 2
