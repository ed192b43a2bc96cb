"""Code that goes one way or another by a size: a graph holds one way, and refuses inputs that would take another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.passes import Simplify
from fxsparse.tracing.arithmetic import QUESTIONS
from fxsparse.tracing.pins import decided

REFUSED = r"test_branches.py:\d+ asks whether .* another answer than the one that the model was traced with"


class Asking(nn.Module):
    """Two ways, chosen by what `ask` says of the input's and the features' shape."""

    def __init__(self, ask: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.stem, self.near, self.far = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        out: Tensor = self.near(y) if self.ask(x.shape, y.shape) else self.far(y)
        return out


ASKED: dict[str, Callable[[Any, Any], Any]] = {
    "equal": lambda x, y: x[2] == 8,
    "unlike": lambda x, y: x[2] != 12,
    "less": lambda x, y: x[2] < 10,
    "from the left": lambda x, y: 10 > y[2],  # noqa: SIM300
    "a fraction": lambda x, y: x[2] <= 9.5,
    "computed": lambda x, y: x[2] // 4 * 2 < 5,
    "divided": lambda x, y: x[2] / 4 <= 2.5,
    "rounded": lambda x, y: math.ceil(x[2] / 5) <= 2,
    "two sizes": lambda x, y: x[2] <= y[3],
    "whole shapes": lambda x, y: x[2:] == (8, 8),
    "truth": lambda x, y: x[2] % 3,
    "a list": lambda x, y: x[2] in [2, 4, 8],
    "sorted": lambda x, y: sorted([10, x[2]])[1] == 10,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_an_input_that_would_take_the_other_way_is_refused(ask: Callable[[Any, Any], Any]) -> None:
    model = Asking(ask).eval()
    network = fxsparse.trace(model, torch.randn(1, 3, 8, 8), check=True)
    small = network.shrink({"stem": [0, 3]})
    assert fxsparse.verify(network, small).max_error <= 1e-9
    simple = Simplify()(small)
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(network(x), model(x))
    with torch.no_grad():
        model(torch.randn(2, 3, 12, 8))
    for each in (network, small, simple.network, small.regrow()):
        assert each(x).shape == (3, 4, 8, 8)
        with pytest.raises(fxsparse.TraceError, match=REFUSED):
            each(torch.randn(2, 3, 12, 8))


def test_every_sign_asks_what_python_asks() -> None:
    size = next(iter(_sizes(torch.randn(8, 1))))
    for question in QUESTIONS.values():
        for other in (7, 8, 9, 7.5, 8.0):
            assert question(size, other) is question(8, other)
            assert question(size / 1, other) is question(8.0, other)
    assert size != "8" and size != None  # noqa: E711  # the size itself is asked


def _sizes(x: Tensor) -> list[Any]:
    """The sizes that code sees."""
    seen: list[Any] = []

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.extend(x.shape)
            return x + 1

    fxsparse.trace(Looking(), x)
    assert type(seen[0]) is not int
    return seen


def test_a_width_may_change_its_answer() -> None:
    """What the code asks of a width is what it asked when the network was whole."""
    network = fxsparse.trace(Asking(lambda x, y: y[1] == 8).eval(), torch.randn(1, 3, 8, 8))
    small = network.shrink({"stem": [0, 3]})
    assert fxsparse.verify(network, small, inputs=torch.randn(2, 3, 5, 9)).max_error <= 1e-9
    again = small.regrow()
    assert torch.equal(again(torch.ones(2, 3, 5, 9)), network(torch.ones(2, 3, 5, 9)))


def test_what_torch_asks_for_itself_binds_no_one() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(4), nn.Upsample(scale_factor=2))
    network = fxsparse.trace(model.eval(), torch.randn(1, 3, 8, 8), check=True)
    x = torch.randn(4, 3, 20, 12)
    assert torch.equal(network(x), model(x))


def test_a_graph_that_is_traced_again_asks_again() -> None:
    network = fxsparse.trace(Asking(ASKED["less"]).eval(), torch.randn(1, 3, 8, 8))
    again = fxsparse.trace(nn.Sequential(network.module, nn.Conv2d(4, 2, 1)).eval(), torch.randn(1, 3, 8, 8))
    assert again(torch.randn(2, 3, 4, 4)).shape == (2, 2, 4, 4)
    with pytest.raises(fxsparse.TraceError, match=REFUSED):
        again(torch.randn(2, 3, 12, 8))


def test_a_question_in_a_loop_is_asked_once() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            batch = x.shape[0]
            for _ in range(5):
                if batch > 1:
                    x = x + 1
            out: Tensor = self.layer(x)
            return out

    network = fxsparse.trace(Loop(), torch.randn(2, 4))
    traced: Any = network.module
    assert [node.target for node in traced.graph_in("eval").graph.nodes].count(decided) == 1
    with pytest.raises(fxsparse.TraceError, match=REFUSED):
        network(torch.randn(1, 4))


@pytest.mark.parametrize(
    "ask", [Tensor.dim, lambda x: x.ndim, lambda x: len(x.shape), lambda x: len(x.size())], ids=["dim", "ndim", "shape", "size"]
)
def test_an_input_with_another_number_of_axes(ask: Callable[[Tensor], int]) -> None:
    class Ranked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.deep, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.flat(x) if ask(x) == 2 else self.deep(x)
            out: Tensor = self.last(y.flatten(ask(y) - 1))
            return out

    network = fxsparse.trace(Ranked().eval(), torch.randn(2, 8), check=True)
    small = network.shrink({"flat": [0, 3]})
    assert fxsparse.verify(network, small, inputs=torch.randn(5, 8)).max_error <= 1e-9
    with pytest.raises(fxsparse.TraceError, match=r"asks whether 3 == 2, to which"):
        small(torch.randn(2, 3, 8))


def test_axes_that_nobody_counts_may_be_more() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    network = fxsparse.trace(model, torch.randn(2, 8))
    x = torch.randn(2, 3, 8)
    assert torch.equal(network(x), model(x))


def test_a_compiled_graph_asks_of_sizes_that_it_does_not_know() -> None:
    network = fxsparse.trace(Asking(ASKED["less"]).eval(), torch.randn(1, 3, 8, 8))
    compiled = torch.compile(network.module, dynamic=True, backend="eager")
    for size in (8, 6, 9):
        x = torch.randn(2, 3, size, 8)
        torch.testing.assert_close(compiled(x), network(x))
    with pytest.raises(fxsparse.TraceError, match=REFUSED):
        compiled(torch.randn(2, 3, 12, 8))


PARTS: dict[str, Callable[[Tensor], Any]] = {
    "split": lambda y: y.split(4, 1),
    "by name": lambda y: torch.split(y, split_size_or_sections=4, dim=1),
    "chunks": lambda y: y.chunk(5, 1),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_an_input_of_more_parts_is_refused(part: Callable[[Tensor], Any]) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            parts = part(self.first(x).relu())
            return torch.cat([self.last(each) / (1 + place) for place, each in enumerate(parts)], 1) / len(parts)

    model = Parts().eval()
    network = fxsparse.trace(model, torch.randn(1, 4, 3))
    small = network.shrink({"first": [0, 3]})
    x = torch.randn(3, 4, 3)
    assert torch.equal(network(x), model(x))
    assert fxsparse.verify(network, small, inputs=x).max_error <= 1e-9
    for module in (network, small, Simplify()(small).network):
        with pytest.raises(fxsparse.TraceError, match=r"over parts, runs to \d with this input"):
            module(torch.randn(1, 9, 3))
