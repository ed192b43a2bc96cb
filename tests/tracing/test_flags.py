"""Buffers that hold a single whole number or truth value, and that a forward pass looks at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxsparse


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
