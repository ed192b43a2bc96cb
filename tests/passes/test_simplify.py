"""Common subexpressions and dead code: what goes, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxsparse
from fxsparse.passes.equality import difference
from fxsparse.passes.simplify import Simplify
from fxsparse.surgery.graphs import graphs
from tests.networks.random_networks import RandomNetwork, networks
from tests.networks.randomise import randomise


class Net(nn.Module):
    """A convolution, a norm, a dropout, and a function that uses them."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.idle = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Identity()
        self.unused = nn.Linear(2, 2)
        self.__dict__["function"] = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.__dict__["function"](self, x)
        return out


def made(function: Callable[..., Tensor]) -> fxsparse.Network:
    return fxsparse.trace(randomise(Net(function).double()), torch.randn(2, 3, 4, 4, dtype=torch.float64))


def targets(network: fxsparse.Network, mode: str = "eval") -> list[str]:
    return [
        node.name for place in graphs(network.module) for node in place.graph.nodes if place.mode == mode and node.op.startswith("call")
    ]


def both(net: Net, x: Tensor) -> Tensor:
    a, b = net.conv(x), net.conv(x)
    unread = torch.tanh(a) * 2
    assert unread is not None
    out: Tensor = net.idle(F.relu(a) + F.relu(b) * torch.softmax(b, 1)) + torch.softmax(a, dim=1)
    return out


def test_graphs_before_and_after() -> None:
    network = made(both)
    assert targets(network) == [
        "conv", "conv_1", "tanh", "mul", "relu", "relu_1", "softmax", "mul_1", "add", "idle", "softmax_1", "add_1",
    ]  # fmt: skip
    result = Simplify()(network)
    assert targets(result.network) == ["conv", "relu", "softmax", "mul_1", "add", "softmax_1", "add_1"]
    assert result.notes == ("eval graph: 2 nodes merged, 2 dropped, 1 that do nothing",)
    assert difference(network, result.network) == 0.0
    assert list(result.network.module.state_dict()) == list(network.module.state_dict())
    assert result.network.macs < network.macs
    assert not Simplify()(result.network).modified


UNCHANGED: dict[str, Callable[..., Tensor]] = {
    "in-place": lambda net, x: torch.relu_(torch.tanh(x)) + torch.tanh(x).add_(1.0),
    "in-place-of-a-view": lambda net, x: torch.relu_(torch.tanh(x).flatten(1)[:, :5]) + torch.tanh(x).flatten(1)[:, :5],
    "random": lambda net, x: F.dropout(x, 0.5, True) + F.dropout(x, 0.5, True),
    "other-numbers": lambda net, x: F.leaky_relu(x, 0.1) + F.leaky_relu(x, 0.2) + x.sum(1, keepdim=True) + x.sum(1).unsqueeze(1),
    "one-and-true": lambda net, x: (x + 1) * (x + True),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_must_stay_stays(name: str) -> None:
    network = made(UNCHANGED[name])
    result = Simplify()(network)
    assert not result.modified and result.network is network and not result.notes


def test_each_mode_has_its_own_graph() -> None:
    """In train mode a norm counts its calls, and dropout draws anew each time."""

    def function(net: Net, x: Tensor) -> Tensor:
        x = net.conv(x)
        y = net.drop(net.norm(x)) * net.drop(net.norm(x))
        out: Tensor = y * 2 if net.training else y + net.norm(x)
        return out

    network = made(function)
    result = Simplify()(network)
    assert targets(result.network) == ["conv", "norm", "drop", "mul", "add"]
    assert targets(result.network, "train") == targets(network, "train")
    assert difference(network, result.network) == 0.0
    result.network.module.train()
    before = int(result.network.module.state_dict()["norm.num_batches_tracked"])
    result.network(torch.randn(2, 3, 4, 4, dtype=torch.float64))
    assert int(result.network.module.state_dict()["norm.num_batches_tracked"]) == before + 2


def test_hooks_are_called_as_before() -> None:
    model = Net(lambda net, x: net.idle(net.conv(x)) + net.conv(x))
    model.conv.register_forward_hook(lambda *given: None)
    model.idle.register_forward_hook(lambda *given: None)
    assert not Simplify()(fxsparse.trace(model.eval(), torch.randn(1, 3, 4, 4))).modified


def test_goes_together_with_shrink_regrow_save_and_load(tmp_path: Path) -> None:
    model = randomise(Pair().double())
    network = fxsparse.trace(model, torch.randn(2, 3, 4, 4, dtype=torch.float64))
    small = Simplify()(network.shrink({"a": [0, 2]})).network
    assert small.group("a").units == (0, 2)
    assert fxsparse.verify(small.regrow(), small).max_error < 1e-12
    assert difference(network, small.regrow()) == 0.0
    fxsparse.save(small, tmp_path / "out")
    again = fxsparse.load(tmp_path / "out", Pair().double().eval())
    assert again.edits == ("simplify",) and difference(small, again) == 0.0
    assert targets(again) == targets(small)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.a(x))) + self.b(torch.tanh(self.a(x)))
        return out


@settings(max_examples=30)
@given(networks(max_ops=12), st.integers(0, 1000))
def test_random_networks_give_the_same_bits(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    call = network.example_inputs(2, seed, torch.float64)
    model = network.build(seed).double()
    before = fxsparse.trace(model, call.args, call.kwargs)
    after = Simplify()(before).network
    assert list(after.module.state_dict()) == list(model.state_dict())
    for training in (False, True):
        runs = []
        for each in (before.module, after.module):
            torch.manual_seed(seed)
            args, kwargs = network.example_inputs(3, seed + 1, torch.float64)
            with torch.no_grad():
                runs.append([leaf for leaf in tree_leaves(each.train(training)(*args, **kwargs)) if isinstance(leaf, Tensor)])
        for a, b in zip(*runs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)
