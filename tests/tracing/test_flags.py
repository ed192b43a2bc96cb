"""Buffers that hold a single whole number or truth value, and that a forward pass looks at."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.passes.simplify import Simplify
from fxsparse.surgery.graphs import graphs
from fxsparse.tracing.pins import answered


class Flagged(nn.Module):
    """Layers around code that asks buffers what to do."""

    def __init__(self, ask: Callable[[Flagged, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.ask = nn.Linear(4, 6), nn.Linear(6, 3), ask
        self.ready: Tensor
        self.count: Tensor
        self.register_buffer("ready", torch.tensor([True]))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.ask(self, self.body(x)).relu())
        return y


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
ASKED: dict[str, Callable[[Flagged, Tensor], Tensor]] = {
    "a truth value": lambda m, y: y if m.ready else y * 100,
    "not": lambda m, y: y * 100 if not m.ready else y,
    "an element": lambda m, y: y if m.ready[0] else y * 100,
    "a comparison": lambda m, y: y if m.count == 3 else y * 100,
    "a number": lambda m, y: y * m.count.item(),
    "int": lambda m, y: y * int(m.count),
    "a loop": lambda m, y: sum((y * i for i in range(int(m.count) + 1)), y),
    "an index": lambda m, y: y * [1, 2, 3, 4][m.count],
    "plain numbers": lambda m, y: y * float(torch.tensor([1.0, 2.0]).sum()),
}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_its_value_is_known_and_the_whole_is_traced(name: str) -> None:
    model = Flagged(ASKED[name]).eval()
    network = fxsparse.trace(model, X, check=True)
    assert network.notes == () and network.origin.islands == ("",)
    torch.testing.assert_close(network.module(X), model(X))
    small = network.shrink({"body": [0, 2, 5]})
    fxsparse.verify(network, small)
    assert small.module(X).shape == (2, 3)


@pytest.mark.parametrize("name", sorted(set(ASKED) - {"plain numbers"}))
def test_another_value_is_refused(name: str) -> None:
    network = fxsparse.trace(Flagged(ASKED[name]).eval(), X)
    network.module.get_buffer("ready").fill_(False)
    network.module.get_buffer("count").fill_(2)
    with pytest.raises(fxsparse.TraceError, match=r"is (False|2) now, and was (True|3) when the model was traced; trace it again"):
        network.module(X)


def test_values_of_weights_inputs_and_chance_are_not_known() -> None:
    for ask in (
        lambda m, y: y if m.body.weight.sum() > 1e9 else y * 2,
        lambda m, y: y if y.sum() > 1e9 else y * 2,
        lambda m, y: y if torch.rand([]) > 2 else y * 2,
        lambda m, y: y if m.count + torch.rand([]) > 9 else y * 2,
    ):
        assert "looks at the value of a tensor (__bool__)" in fxsparse.trace(Flagged(ask).eval(), X).notes[0]


def test_a_model_is_left_alone() -> None:
    model = Flagged(lambda m, y: y * m.count.add_(1).item())
    fxsparse.trace(model.eval(), X)
    assert int(model.count) == 3


class Counting(nn.Module):
    """A counter and a flag that the forward pass changes itself."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("step", torch.tensor(start))
        self.register_buffer("ready", torch.tensor([False]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.body(x))
        if self.training:
            self.get_buffer("step").add_(1)
            if self.get_buffer("step") > 2:
                y = y * 2
            if not self.get_buffer("ready"):
                y = y + 1
                self.get_buffer("ready").logical_or_((x > -1e9).any())
        result: Tensor = self.head(y)
        return result


def test_what_the_forward_pass_changes_itself_is_left_to_its_code() -> None:
    model = Counting()
    network = fxsparse.trace(copy.deepcopy(model).eval(), X)
    assert "which it changes itself" in network.notes[0]
    small = network.shrink({})
    model.train()
    small.module.train()
    for _ in range(5):
        torch.testing.assert_close(small.module(X), model(X))


def test_a_network_that_was_trained_past_its_flags_is_loaded(tmp_path: Path) -> None:
    model = Flagged(ASKED["a truth value"]).eval()
    model.ready.fill_(False)
    network = fxsparse.trace(model, X)
    small = network.shrink({"body": [0, 2, 5]})
    fxsparse.save(small, tmp_path / "saved")
    fresh = Flagged(ASKED["a truth value"]).eval()
    again = fxsparse.load(tmp_path / "saved", fresh)
    assert torch.equal(again.module(X), small.module(X)) and bool(fresh.ready)


LADDERS: dict[str, Callable[[Flagged, Tensor], Tensor]] = {
    "a ladder": lambda m, y: y * sum(rate.item() for rate in torch.linspace(0, 0.2, 4)),
    "a third": lambda m, y: y * (torch.ones(1) / 3).item(),
    "of a buffer": lambda m, y: y * (m.count / 7).item(),
}


@pytest.mark.parametrize("name", sorted(LADDERS))
def test_fractions_are_the_same_in_another_precision(name: str) -> None:
    network = fxsparse.trace(Flagged(LADDERS[name]).eval(), X)
    fxsparse.verify(network, network.shrink({"body": [0, 2, 5]}))
    assert any(node.target is answered for place in graphs(network.module) for node in place.graph.nodes) == (name == "of a buffer")


def test_simplify_keeps_what_is_held_to() -> None:
    network = Simplify()(fxsparse.trace(Flagged(ASKED["a truth value"]).eval(), X)).network
    network.module.get_buffer("ready").fill_(False)
    with pytest.raises(fxsparse.TraceError, match="trace it again"):
        network.module(X)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # by torch, where compiled code is left and resumed
def test_compiled_code_holds_to_it() -> None:
    network = fxsparse.trace(Flagged(ASKED["a truth value"]).eval(), X)
    compiled = torch.compile(network.module, backend="eager")
    torch.testing.assert_close(compiled(X), network.module(X))
    network.module.get_buffer("ready").fill_(False)
    with pytest.raises(fxsparse.TraceError, match="trace it again"):
        compiled(X)


class Dropping(Flagged):
    """Leaves its body out at random, and asks a flag as well."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.training and torch.rand([]) < 0.1:
            y = y.tanh()
        result: Tensor = self.head(self.ask(self, y))
        return result


@pytest.mark.parametrize("name", sorted(ASKED))
def test_the_users_own_code_is_told_the_same(name: str) -> None:
    model = Dropping(ASKED[name]).eval()
    network = fxsparse.trace(model, X)
    assert "train mode stays in plain Python" in network.notes[0]
    small = network.shrink({})
    small.module.train()
    small.module(X).sum().backward()


class Times(torch.autograd.Function):
    """Looks at its second argument itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n: Tensor) -> Tensor:
        ctx.n = n.item()
        result: Tensor = x * ctx.n
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.n, None


def test_a_function_that_wants_the_tensor_gets_it() -> None:
    model = Flagged(lambda m, y: Times.apply(y, m.count)).eval()  # type: ignore[no-untyped-call]
    network = fxsparse.trace(model, X)
    torch.testing.assert_close(network.module(X), model(X))
    fxsparse.verify(network, network.shrink({"body": [0, 2, 5]} if network.group("body").prunable else {}))
