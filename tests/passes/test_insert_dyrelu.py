"""Every kind of ReLU becomes a DyReLU, and with beta 0 nothing has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse import PassError
from fxsparse.models import DyReLU, cifar_resnet
from fxsparse.passes import Pipeline
from fxsparse.passes.equality import difference
from fxsparse.passes.insert_dyrelu import InsertDyrelu
from fxsparse.passes.phase_dyrelu import PhaseDyrelu
from tests.networks.randomise import randomise


class Kinds(nn.Module):
    """ReLUs of all spellings; one module twice, one in place whose input is read again, one of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(7))
        self.relu, self.inplace = nn.ReLU(), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.convs[0](x))
        x = self.relu(self.convs[1](x))
        y = self.convs[2](x)
        x = self.inplace(y) + y
        x = torch.relu(self.convs[3](x))
        x = F.relu(self.convs[4](x), inplace=True)
        x = self.convs[5](x).relu()
        x = self.convs[6](x).relu_()
        if self.training:
            x = F.dropout(x, 0.5)
        out: Tensor = self.head(torch.relu(x.flatten(2).transpose(1, 2)).mean(1))
        return out


def traced() -> fxsparse.Network:
    torch.manual_seed(0)
    return fxsparse.trace(randomise(Kinds().double().eval()), torch.randn(2, 4, 6, 6, dtype=torch.float64))


def test_every_kind() -> None:
    network = traced()
    result = InsertDyrelu()(network)
    names = sorted(name for name, each in result.network.module.named_modules() if isinstance(each, DyReLU))
    assert names == [f"dyrelu.convs_{i}" for i in range(7)]
    assert result.notes[0].startswith("7 ReLUs became DyReLUs, with ")
    assert result.notes[1] == "the ReLU after convs.6.2 stays: axis 1 of its input, of shape (2, 36, 4), holds no channels"
    assert difference(network, result.network) > 1e-3
    assert difference(network, PhaseDyrelu(beta=0.0)(result.network).network) == 0.0
    kept = {key for key in result.network.module.state_dict() if not key.startswith("dyrelu.")}
    assert kept == set(network.module.state_dict())
    trained = result.network.module.train()
    trained(torch.randn(2, 4, 6, 6, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in trained.parameters())


def test_the_formula_stands_in_place_of_the_relu() -> None:
    """By hand: the same modules, called in the same order."""
    network = fxsparse.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval(), torch.randn(2, 3, 8, 8))
    made: nn.Module = InsertDyrelu()(network).network.module
    x = torch.randn(2, 3, 8, 8)
    first, second, dyrelu = made.get_submodule("0"), made.get_submodule("2"), made.get_submodule("dyrelu.0")
    assert torch.equal(made(x), second(dyrelu(first(x))))


def test_prunable_with_its_channels(tmp_path: Path) -> None:
    network = InsertDyrelu()(traced()).network
    keep = {group.name: group.units[::2] for group in network.groups if group.prunable}
    assert any("dyrelu.convs_0.fc1.weight" in {m.tensor for m in group.members} for group in network.groups if group.prunable)
    small = network.shrink(keep)
    assert fxsparse.verify(network, small).max_error < 1e-12
    assert small.module.get_parameter("dyrelu.convs_0.fc2.weight").shape[0] == 4 * small.module.get_parameter("convs.0.weight").shape[0]
    fxsparse.save(small, tmp_path / "out")
    again = fxsparse.load(tmp_path / "out", Kinds().double().eval())
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    assert torch.equal(again.module.eval()(x), small.module.eval()(x))
    assert fxsparse.verify(network, small.regrow()).max_error < 1e-12


def test_after_pruning_it_has_the_width_that_is_left() -> None:
    network = traced()
    small = network.shrink({group.name: group.units[::2] for group in network.groups if group.prunable})
    made = InsertDyrelu()(small).network
    assert made.module.get_parameter("dyrelu.convs_3.fc1.weight").shape[1] == small.module.get_parameter("convs.3.weight").shape[0]
    assert fxsparse.verify(made.regrow(), made).max_error < 1e-12


def test_options() -> None:
    network = traced()
    result = InsertDyrelu(exclude=("convs.[0-4]",), reduction=2, beta=0.5)(network)
    assert "the ReLU after convs.0 stays: 'convs.[0-4]' excludes it" in result.notes
    assert [name for name, _ in result.network.module.named_modules() if name.count(".") == 1 and name.startswith("dyrelu")] == [
        "dyrelu.convs_5",
        "dyrelu.convs_6",
    ]
    assert float(result.network.module.get_buffer("dyrelu.convs_5.beta")) == 0.5
    assert result.network.module.get_parameter("dyrelu.convs_5.fc1.weight").shape == (2, 4)
    assert str(Pipeline.parse("insert-dyrelu{reduction=2,exclude=[stem]}")) == "insert-dyrelu{reduction=2,exclude=[stem]}"
    assert not InsertDyrelu(exclude=("*",))(network).modified


def test_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        network = fxsparse.trace(cifar_resnet.resnet34().eval(), torch.randn(2, 3, 32, 32))
    assert InsertDyrelu()(network).notes == ("33 ReLUs became DyReLUs, with 3,181,168 dense parameters of their own",)


def test_refuses_with_a_sentence() -> None:
    network = traced()
    with pytest.raises(PassError, match="reduction is at least 1, not 0"):
        InsertDyrelu(reduction=0)(network)
    with pytest.raises(PassError, match="beta is between 0 and 1"):
        InsertDyrelu(beta=2.0)(network)
    with pytest.raises(PassError, match="has DyReLUs already; take them out with remove-dyrelu first"):
        InsertDyrelu()(InsertDyrelu()(network).network)


class Alike(nn.Module):
    """Names that differ in a dot alone, one that ends like a count, and noise that is there in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.a_b, self.a = nn.Conv2d(3, 4, 1), nn.ModuleDict({"b": nn.Conv2d(4, 4, 1)})
        self.one, self.one_2, self.noise = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(torch.relu(self.a["b"](torch.relu(self.a_b(x)))))
        x = torch.relu(x) + torch.relu(1 - x)
        x = self.one_2(x)
        return torch.relu(self.noise(x) if self.training else x)


def test_each_use_has_its_own_and_both_modes_the_same() -> None:
    network = fxsparse.trace(Alike().double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64))
    module: nn.Module = InsertDyrelu()(network).network.module
    made = [each for each in module.modules() if isinstance(each, DyReLU)]
    assert len(made) == 5
    for mode in (True, False):
        module.train(mode).zero_grad()
        module(torch.randn(2, 3, 4, 4, dtype=torch.float64)).sum().backward()
        assert all(p.grad is not None for each in made for p in each.parameters())
