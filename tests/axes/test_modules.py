"""Rules for whole modules: one call on the tape, never looked into, proved by the module's own code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.axes.site import Site


class Mixed(nn.Module):
    """A gate, a matrix and a size that it keeps; inside is an operator that no rule lets through."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.randn(width))
        self.inner = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == self.width
        turned = (x * self.scale).flip(-1).flip(-1)  # moves along the axis, and back: only the rule can know
        result: Tensor = self.inner(turned)
        return result


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.mixed = Mixed(8, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.mixed(self.a(x)).relu())
        return result


class WithShell(nn.Module):
    """The same where the whole cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y * 2 if bool(y.sum() > 1e9) else y


TEXT = "(…, i), (i), (o, i) -> (…, o)"


def as_function(site: Site) -> None:
    """A gate, then a matrix."""
    x, scale, weight = site.axes("x"), site.axes("scale"), site.axes("inner.weight")
    site.algebra.unify(x[-1], scale[0])
    site.algebra.unify(x[-1], weight[1])
    site.touch(*x, *weight)
    site.role(weight[0], "produces")
    site.role(weight[1], "consumes")
    site.give([*x[:-1], weight[0]])


def resize(module: Any) -> None:
    module.width = module.scale.shape[0]


@pytest.fixture(params=[TEXT, as_function], ids=["text", "function"])
def taught(request: pytest.FixtureRequest) -> Iterator[None]:
    fxsparse.register_rule(Mixed, request.param, resize=resize)
    yield
    fxsparse.unregister_rule(Mixed)


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("cls", [Model, WithShell])
def test_a_taught_module_is_pruned_on_both_sides_and_proved(cls: type[nn.Module]) -> None:
    model = cls().eval()
    network = fxsparse.trace(model, torch.randn(2, 4))
    prefix = "" if cls is Model else "model."
    a, inner = network.group(f"{prefix}a"), network.group(f"{prefix}mixed.inner")
    assert {(m.tensor.removeprefix(prefix), m.axis) for m in a.members} == {
        ("a.weight", 0), ("a.bias", 0), ("mixed.scale", 0), ("mixed.inner.weight", 1),
    }  # fmt: skip
    small = network.shrink({a.name: [1, 4, 6], inner.name: [0, 5]})
    mixed: Any = small.module.get_submodule(f"{prefix}mixed")
    assert mixed.width == 3 and tuple(mixed.inner.weight.shape) == (2, 3)
    assert fxsparse.verify(network, small).max_error < 1e-12
    again: Any = small.regrow().module.get_submodule(f"{prefix}mixed")
    whole: Any = network.module.get_submodule(f"{prefix}mixed")
    assert again.width == whole.width == 8 and torch.equal(again.inner.weight, whole.inner.weight)


@pytest.mark.usefixtures("taught")
def test_a_taught_module_is_one_node_and_one_call() -> None:
    network = fxsparse.trace(Model().eval(), torch.randn(2, 4))
    module: Any = network.module
    assert [n.target for n in module.graphs["eval"].graph.nodes if n.op == "call_module"] == ["a", "mixed", "b"]
    tape = network.origin.structure.reading.tapes[0].tape
    assert sum(call.owner.module == "mixed" for call in tape.calls) == 1
    assert any(call.name.endswith("Mixed") for call in tape.calls)


def test_without_its_rule_the_module_is_looked_into_and_protected() -> None:
    network = fxsparse.trace(Model().eval(), torch.randn(2, 4))
    assert not network.group("a").prunable and "flip" in network.group("a").reason


def test_a_wrong_rule_is_caught_by_the_proof() -> None:
    class Turned(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.inner((x * self.scale).flip(-1))
            return result

    fxsparse.register_rule(Turned, TEXT)
    try:
        model = Model()
        model.mixed = Turned(8, 6)
        network = fxsparse.trace(model.eval(), torch.randn(2, 4))
        small = network.shrink({"a": [0, 1, 5]})
        with pytest.raises(fxsparse.VerificationError):
            fxsparse.verify(network, small)
    finally:
        fxsparse.unregister_rule(Turned)


def test_a_rule_that_raises_protects_what_the_module_touches() -> None:
    def broken(site: Site) -> None:
        raise KeyError("nothing")

    fxsparse.register_rule(Mixed, broken)
    try:
        group = fxsparse.trace(Model().eval(), torch.randn(2, 4)).group("a")
        assert not group.prunable and "Mixed failed: KeyError" in group.reason
    finally:
        fxsparse.unregister_rule(Mixed)


def test_nonsense_is_refused() -> None:
    wrong: Any = [Model(), int]
    for each in wrong:
        with pytest.raises(fxsparse.RuleError, match="subclass of torch"):
            fxsparse.register_rule(each, "(a) -> (a)")
    with pytest.raises(fxsparse.RuleError, match="keeps no sizes"):
        fxsparse.register_rule("mylib::scale", "(a) -> (a)", resize=resize)
    with pytest.raises(fxsparse.RuleError, match="no rule was registered"):
        fxsparse.unregister_rule(Model)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(g * 2 for g in grads)


class WithFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(Double.apply(self.a(x)))  # type: ignore[no-untyped-call]
        return result


def test_an_autograd_function_needs_no_rule() -> None:
    network = fxsparse.trace(WithFunction().eval(), torch.randn(2, 4))
    small = network.shrink({"a": [2, 3]})
    assert fxsparse.verify(network, small).max_error < 1e-12


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("first", [True, False], ids=["batch first", "time first"])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, True)])
def test_hidden_units_of_recurrent_layers_are_prunable(cls: Any, first: bool, layers: int, both: bool) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r = cls(5, 6, num_layers=layers, bidirectional=both, batch_first=first)
            self.head = nn.Linear(6 * (1 + both), 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.r(x)[0])
            return result

    network = fxsparse.trace(Recurrent().eval(), torch.randn(2, 2, 5))  # as many steps as samples: their axes must not be mixed up
    assert network.group("r").prunable
    small = network.shrink({"r": [1, 2, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-12
    recurrent: Any = small.module.get_submodule("r")
    assert recurrent.hidden_size == 3
