"""What rules say: their printed form, and the coupling that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.axes.rules import RULES
from fxsparse.axes.site import Site
from fxsparse.axes.spec import parse
from tests import cases

PRINTED = {
    "aten.addmm": "addmm: (…), (n, i), (i, o) -> (n, o)",
    "aten.bmm": "bmm: (h, n, k), (h, k, m) -> (h, n, m)",
    "aten.cat": "cat: (a), (b) -> (a + b)",
    "aten.convolution": "convolution: (b, g·i, x!), (g·o, i, k!), (g·o) -> (b, g·o, u)"
    "   transposed: (b, g·i, x!), (g·i, o, k!), (g·o) -> (b, g·o, u)   x -> x for a kernel of one",
    "aten.embedding": "embedding: (v!, d), (…) -> (…, d)",
    "aten.expand": "expand: (a, 1) -> (a, n)  the new axis holds one value n times",
    "aten.mean": "mean: (a, r!) -> (a)",
    "aten.mm": "mm: (n, i), (i, o) -> (n, o)",
    "aten.native_group_norm": "native_group_norm: (b, g·c, …), (g·c), (g·c) -> (b, g·c, …), (b, g), (b, g)  statistics over c",
    "aten.native_layer_norm": "native_layer_norm: (…, c), (c), (c) -> (…, c), (…), (…)  statistics over c",
    "aten.pixel_shuffle": "pixel_shuffle: (…, c·r·s, h, w) -> (…, c, h·r, w·s)",
    "aten.slice": "slice: (a) -> (part of a)",
    "aten.sum": "sum: (a, r) -> (a)  a removed coordinate is a missing summand; weights stay whole but for norms",
}


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_printed_rule(name: str) -> None:
    assert str(RULES.find(name)) == PRINTED[name]


def test_every_rule_prints_itself() -> None:
    rules = RULES.all()
    assert len(rules) > 200 and all(rule.text and str(rule) for rule in rules.values())


@pytest.mark.parametrize("text", ["(a, b) -> (a)", "(…, g·c!) -> (…)", "(n, i), (i, o) -> (n, o), ()"])
def test_specs_print_as_they_are_written(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["a, b", "(a, b)", "(a, b) -> (a-b)", "(a) -> (b", "(a) => (b)"])
def test_malformed_specs_are_shown(text: str) -> None:
    with pytest.raises(fxsparse.RuleError, match="rule"):
        parse(text)


class One(nn.Module):
    """Linear, a function, linear."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 8, out: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(out, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.function(self.a(x)))
        return result


def at_places(weight: Tensor, **options: Any) -> Callable[[Tensor], Tensor]:
    """A convolution to which rows are channels, and columns are places."""
    return lambda x: F.conv1d(x[None], weight.to(x), **options)[0]


def overwritten(x: Tensor, mask: Callable[[Tensor], Tensor]) -> Tensor:
    x = x + 1
    x[mask(x)] = 0.5
    return x


COUPLED: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "abs": (torch.abs, True),
    "as_strided": (lambda x: x.as_strided(x.shape, x.stride()), False),
    "convolution of one": (at_places(torch.ones(3, 2, 1)), True),
    "convolution of one with a stride": (at_places(torch.ones(3, 2, 1), stride=2), False),
    "convolution of three": (at_places(torch.ones(3, 2, 3), padding=1), False),
    "cumsum": (lambda x: x.cumsum(-1), False),
    "exp": (torch.exp, True),
    "flip": (lambda x: x.flip(-1), False),
    "gather rows": (lambda x: x.gather(0, torch.zeros(x.shape, dtype=torch.long, device=x.device)), True),
    "gather": (lambda x: x.gather(-1, torch.zeros(x.shape, dtype=torch.long, device=x.device)), False),
    "logsumexp": (lambda x: x - x.logsumexp(-1, keepdim=True), False),
    "max": (lambda x: x - x.max(-1, keepdim=True).values, False),
    "index_add": (lambda x: torch.zeros_like(x).index_add(0, torch.tensor([1, 1], device=x.device), x), True),
    "index_put": (lambda x: x.index_put((torch.tensor([0], device=x.device),), x[:1]), True),
    "index_put by a mask": (lambda x: overwritten(x, lambda y: y < 0), True),
    "index_put by a mask of what is not": (lambda x: overwritten(x, lambda y: ~(y < 0)), True),
    "index_put by a list": (lambda x: overwritten(x, lambda y: torch.tensor([0, 1], device=y.device)), True),
    "index_put by a number": (lambda x: x * overwritten(x[0], lambda y: torch.tensor([7], device=y.device)), False),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True), True),
    "norm of the greatest": (lambda x: x / x.norm(float("inf"), dim=-1, keepdim=True), False),
    "roll": (lambda x: x.roll(1, -1), False),
    "softmax": (lambda x: x.softmax(-1), False),
    "sort": (lambda x: x.sort(-1).values, False),
    "sum": (lambda x: x * x.sum(-1, keepdim=True), True),
    "topk": (lambda x: x.topk(8, -1).values, False),
    "scatter_add": (lambda x: x.scatter_add(0, torch.ones(1, 1, dtype=torch.long, device=x.device).expand(2, x.shape[1]), x), True),
    "where": (lambda x: torch.where(x > 0, x, x * 2), True),
}


@pytest.mark.parametrize("name", sorted(COUPLED))
def test_prunable_or_protected(name: str) -> None:
    function, prunable = COUPLED[name]
    out = 4 if name.endswith("stride") else 8
    network = fxsparse.trace(One(function, out=out).eval(), torch.randn(2, 4))
    group = network.group("a")
    assert group.prunable is prunable
    if prunable:
        assert {(m.tensor, m.axis, m.role) for m in group.members} == {
            ("a.weight", 0, "produces"), ("a.bias", 0, "produces"), ("b.weight", 1, "consumes"),
        }  # fmt: skip
        assert fxsparse.verify(network, network.shrink({"a": [1, 5, 6]})).max_error < 1e-12
    else:
        assert name.split()[0] in group.reason or "reduces" in group.reason or "works" in group.reason


def test_unknown_operator_is_protected_with_a_hint() -> None:
    network = fxsparse.trace(cases.UnknownOperator().eval(), torch.randn(2, 6))
    group = network.group("a")
    assert not group.prunable and "no rule for the operator fxsparse_tests::mix; teach it with fxsparse.register_rule" in group.reason
    assert network.group("c").prunable
    assert any("fxsparse_tests::mix" in note for note in network.notes)


@torch.library.custom_op("fxsparse_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def as_function(site: Site) -> None:
    """Element by element."""
    axes = site.axes("x")
    site.touch(*axes)
    site.give(axes)


@pytest.mark.parametrize("rule", ["(…) -> (…)", as_function], ids=["text", "function"])
def test_a_registered_rule_teaches_a_custom_operator(rule: Any) -> None:
    model = One(torch.ops.fxsparse_tests.double).eval()
    x = torch.randn(2, 4)
    assert not fxsparse.trace(model, x).group("a").prunable
    fxsparse.register_rule("fxsparse_tests::double", rule)
    try:
        network = fxsparse.trace(model, x)
        assert fxsparse.verify(network, network.shrink({"a": [0, 7]})).max_error < 1e-12
    finally:
        fxsparse.unregister_rule("fxsparse_tests::double")
    assert not fxsparse.trace(model, x).group("a").prunable


def test_a_rule_that_raises_protects() -> None:
    def broken(site: Site) -> None:
        raise KeyError("no such thing")

    fxsparse.register_rule("fxsparse_tests::double", broken)
    try:
        group = fxsparse.trace(One(torch.ops.fxsparse_tests.double).eval(), torch.randn(2, 4)).group("a")
        assert not group.prunable and "KeyError" in group.reason
    finally:
        fxsparse.unregister_rule("fxsparse_tests::double")


def test_registering_nonsense_says_so() -> None:
    with pytest.raises(fxsparse.RuleError, match="mylib::scale"):
        fxsparse.register_rule("scale", "(a) -> (a)")
    with pytest.raises(fxsparse.RuleError, match="no rule was registered"):
        fxsparse.unregister_rule("fxsparse_tests::never")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * x * grads[0]


def test_autograd_functions_are_seen_through() -> None:
    network = fxsparse.trace(One(Square.apply).eval(), torch.randn(2, 4))
    small = network.shrink({"a": [0, 3]})
    assert fxsparse.verify(network, small).max_error < 1e-12
    small(torch.randn(2, 4)).sum().backward()


LOSSES: list[Callable[..., Tensor]] = [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_loss_that_reduces_nothing_is_element_wise(loss: Callable[..., Tensor]) -> None:
    class Distance(nn.Module):
        def __init__(self, reduction: str) -> None:
            super().__init__()
            self.a, self.b, self.c, self.reduction = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3), reduction

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = loss(self.a(x), self.b(x), reduction=self.reduction)
            return self.c(result) if result.dim() else result

    network = fxsparse.trace(Distance("none"), torch.randn(2, 4))
    assert fxsparse.verify(network, network.shrink({"a": [0, 3, 5]})).effect > 1e-3
    assert not any(group.prunable for group in fxsparse.trace(Distance("mean"), torch.randn(2, 4)).groups)


OVER_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda w: w.abs().sum(1, keepdim=True),
    "norm of rows": lambda w: w.norm(dim=1, keepdim=True),
    "norm": lambda w: w.norm(),
}


@pytest.mark.parametrize("whole", OVER_WEIGHTS.values(), ids=OVER_WEIGHTS.keys())
def test_a_sum_over_a_weight_keeps_what_it_consumes(whole: Callable[[Tensor], Tensor]) -> None:
    """The wide network with the channel zeroed would still count the weights for it. Only a norm of the weight is that of what is left."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w = nn.Linear(4, 8), nn.Parameter(torch.rand(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.a(x), self.w * whole(self.w))

    group = fxsparse.trace(Scaled().eval(), torch.randn(2, 4)).group("a")
    assert not group.prunable
    assert "reduces it" in group.reason


class Positions(nn.Module):
    """Learned positions for up to ten words, and a causal mask for as many."""

    mask: Tensor

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.positions, self.scale, self.whole = nn.Parameter(torch.rand(1, 10, 8)), nn.Parameter(torch.rand(8)), whole
        self.register_buffer("mask", torch.ones(10, 10).tril())

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        x = self.a(x) + (self.positions * self.scale)[:, :n]
        if self.whole:
            x = x + self.positions.sum() + self.mask.sum()
        result: Tensor = self.b(self.mask[:n, :n] @ x)
        return result


def test_what_is_sliced_away_from_a_weight_stays_for_longer_inputs() -> None:
    network = fxsparse.trace(Positions(False), torch.randn(2, 6, 4))
    left = {group.members[0].tensor for group in network.groups if group.reason == "no recorded call uses it"}
    assert left == {"positions", "mask"}
    small = network.shrink({group.name: group.units[::2] for group in network.groups if group.prunable})
    assert small(torch.randn(2, 10, 4)).shape == (2, 10, 3)
    assert small.module.get_parameter("positions").shape == (1, 10, 4)


def test_what_another_call_uses_whole_is_not_said_to_be_unused() -> None:
    network = fxsparse.trace(Positions(True), torch.randn(2, 6, 4))
    assert not any(group.reason == "no recorded call uses it" for group in network.groups)


def test_what_weights_alone_contract_is_used() -> None:
    """Queries that are parameters, through the first rows of a packed projection: attention among them meets no input."""

    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.packed, self.out = nn.Parameter(torch.rand(5, 4)), nn.Linear(4, 16), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            q = nn.functional.linear(self.queries, self.packed.weight[:8]).view(5, 2, 4).transpose(0, 1)
            values: Tensor = self.out(nn.functional.linear(x, self.packed.weight[8:]))
            return (q @ q.transpose(1, 2)).sum(0) + values

    network = fxsparse.trace(Queries(), torch.randn(5, 4))
    assert {group.reason for group in network.groups if group.members[0].tensor == "packed.weight" and group.members[0].axis == 0} == {""}


def test_one_channel_at_two_places_of_groups_that_stay_equal() -> None:
    """cat([x, f(x)]) in groups: what is equal in one group to what stands in another, makes them one."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 8), nn.GroupNorm(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            out: Tensor = self.b(self.norm(torch.cat([x, torch.relu(x)], 1)))
            return out

    network = fxsparse.trace(Twice().eval(), torch.randn(2, 4))
    assert {group.name: group.size for group in network.groups if group.prunable} == {"a/groups": 2, "a/group_channels": 4}
    small = network.shrink({"a/groups": [1], "a/group_channels": [0, 3]})
    assert small.module.get_parameter("a.weight").shape == (2, 4)
    assert fxsparse.verify(network, small).max_error < 1e-12
