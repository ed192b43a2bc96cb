"""Ways to write a network that older code has: weights put into layers at each run, tensors made by `new`, by type and by `Variable`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable

import fxsparse

Way = Callable[[nn.Linear, Tensor], Tensor]


class Between(nn.Module):
    """Linear, a function, linear."""

    def __init__(self, function: Way) -> None:
        super().__init__()
        self.a, self.m, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.function(self.m, self.a(x)))
        return out


def called(m: nn.Linear, x: Tensor) -> Tensor:
    out: Tensor = torch.func.functional_call(m, {"weight": m.weight * 2, "bias": m.bias}, (x,))
    return out


def put_there(m: nn.Linear, x: Tensor) -> Tensor:
    weight = m.weight
    del m.weight
    m.weight = weight * 3
    out: Tensor = m(x)
    del m.weight
    m.weight = weight
    return out


@pytest.mark.parametrize("way", [called, put_there])
def test_a_layer_with_another_weight_is_not_the_layer(way: Way) -> None:
    network = fxsparse.trace(Between(way).eval(), torch.randn(2, 4), check=True)
    small = network.shrink({"a": [0, 2, 5], "m": [1, 2]})
    assert fxsparse.verify(network, small).effect > 0


@pytest.mark.parametrize(
    "way",
    [
        lambda m, x: x + x.data.new(x.size(0), 6).fill_(2),
        lambda m, x: x + x.new(x.size()).fill_(2),
        lambda m, x: x * x.new([2.0]) + x.new(*x.size()).zero_(),
        lambda m, x: x + torch.FloatTensor(2, 6).fill_(2),
        lambda m, x: x * torch.Tensor(1).fill_(2),
        lambda m, x: x + torch.ones(6).type(x.type()),
        lambda m, x: x + Variable(torch.ones(x.size(0), 6)),
        lambda m, x: x * Variable(x, requires_grad=False) + Variable(torch.ones(6)),
    ],
    ids=["new", "new of a size", "new of numbers", "a type", "a type of one", "a type by name", "a variable", "a variable without history"],
)
def test_older_ways_to_make_a_tensor(way: Way) -> None:
    model, x = Between(way).eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x)
    assert network.origin.islands == ("",)
    torch.testing.assert_close(network(x), model(x))
    proof = fxsparse.verify(network, network.shrink({"a": [0, 2, 5]}))
    assert proof.max_error < 1e-12 and proof.effect > 0
    twin = copy.deepcopy(network.module)
    (model(x).sum() + twin(x).sum()).backward()
    torch.testing.assert_close(twin.get_parameter("a.weight").grad, model.a.weight.grad)


class Dropped(nn.Module):
    """A recurrent layer whose weight is another one at each run."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6), nn.Linear(6, 3)
        self.raw = nn.Parameter(self.rnn._parameters.pop("weight_hh_l0").detach())  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        self.rnn._parameters["weight_hh_l0"] = F.dropout(self.raw * 1.0, 0.5, self.training)  # type: ignore[assignment]
        out: Tensor = self.head(self.rnn.forward(x)[0][-1])
        del self.rnn._parameters["weight_hh_l0"]
        return out


def test_a_weight_that_is_made_anew_at_each_run() -> None:
    model, x = Dropped().eval(), torch.randn(5, 2, 4)
    network = fxsparse.trace(model, x, check=True)
    (group,) = (each for each in network.groups if each.prunable)
    small = network.shrink({group.name: [0, 2, 3]})
    assert fxsparse.verify(network, small).effect > 0 and small(x).shape == (2, 3)
    assert {member.tensor for member in group.members} >= {"raw", "rnn.weight_ih_l0", "head.weight"}


def test_a_layer_that_keeps_no_weight_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Given())
    network = fxsparse.trace(model.eval(), torch.randn(2, 4), check=True)
    assert fxsparse.verify(network, network.shrink({"0": [0, 2, 5]})).effect > 0


class Given(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.raw = nn.Parameter(self.layer._parameters.pop("weight").detach())  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight = self.raw * 2
        out: Tensor = self.layer(x)
        return out
