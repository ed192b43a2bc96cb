"""Cuts by the value of a tensor. A single whole number in a buffer is known, and the graph holds to it. Of others there are no values on
meta tensors: a number that is made up must not decide what may go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxsparse

Cut = Callable[["Cutting", Tensor], Tensor]


class Cutting(nn.Module):
    start: Tensor
    ends: Tensor

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 4, 1, bias=False)
        self.register_buffer("start", torch.tensor(3))
        self.register_buffer("ends", torch.tensor([2, 5]))
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x) * self.ends.sum()
        out: Tensor = self.last(self.cut(self, y).mean(1, keepdim=True) + self.start)
        return out


KNOWN: dict[str, Cut] = {
    "an index": lambda m, y: y[:, m.start, None],
    "select": lambda m, y: y.select(1, m.start).unsqueeze(1),  # type: ignore[arg-type]
    "a slice from it": lambda m, y: y[:, m.start :],
    "a slice to it": lambda m, y: y[:, : m.start],
    "narrow": lambda m, y: y.narrow(1, m.start, 2),
    "unflatten": lambda m, y: y.unflatten(1, (-1, m.start + 1))[:, 0],
    "int()": lambda m, y: y[:, : int(m.start)],
    "what is computed from it": lambda m, y: y[:, : m.start // 2 + 1],
}
CUTS: dict[str, Cut] = {
    "a slice": lambda m, y: y[:, m.ends[0] :],
    "item()": lambda m, y: y[:, : int(m.ends.max().item())],
    "a float": lambda m, y: y[:, : int(float(m.ends.max()) * 0.5)],
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_cut_by_a_known_number_is_a_cut_by_a_constant_and_holds_to_it(name: str) -> None:
    torch.manual_seed(0)
    model = Cutting(KNOWN[name]).eval()
    network = fxsparse.trace(model, torch.randn(2, 3, 4, 4), check=True)
    assert network.origin.islands == ("",)
    small = network.shrink({"first": network.group("first").units[1:]}) if network.group("first").prunable else network.shrink({})
    fxsparse.verify(network, small)
    x = torch.randn(3, 3, 4, 4)
    torch.testing.assert_close(network.module(x), model(x))
    network.module.get_buffer("start").fill_(1)
    with pytest.raises(fxsparse.TraceError, match=r"is \d now, and was \d when the model was traced; trace it again"):
        network.module(x)


@pytest.mark.parametrize("name", sorted(CUTS))
def test_what_is_cut_by_a_value_stays_whole(name: str) -> None:
    torch.manual_seed(0)
    model = Cutting(CUTS[name]).eval()
    network = fxsparse.trace(model, torch.randn(2, 3, 4, 4))
    assert network.origin.islands == ()
    assert "looks at the value of a tensor" in network.notes[0]
    assert not [group.name for group in network.groups if group.prunable]
    x = torch.randn(3, 3, 4, 4)
    torch.testing.assert_close(network.module(x), model(x))


class Summing(Cutting):
    """Here nothing but the cut stands in the way."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.cut(self, self.first(x)).sum(1, keepdim=True))
        return out


def test_the_reason_says_so() -> None:
    network = fxsparse.trace(Summing(CUTS["item()"]).eval(), torch.randn(2, 3, 4, 4))
    assert not any(group.prunable for group in network.groups)
    assert "Python code that could not be traced may cut it by the value of a tensor" in {group.reason for group in network.groups}


def test_what_nothing_cuts_may_go() -> None:
    """The same question, but the answer is used for a scale: the channels before and behind are as free as ever."""

    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)
            self.register_buffer("factor", torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x) * float(self.get_buffer("factor"))
            out: Tensor = self.last(self.second(y).relu())
            return out

    torch.manual_seed(0)
    network = fxsparse.trace(Scaling().eval(), torch.randn(2, 3, 4, 4))
    assert network.origin.islands == ()
    assert sorted(len(group.units) for group in network.groups if group.prunable) == [6, 8]
    small = network.shrink({group.name: list(group.units)[::2] for group in network.groups if group.prunable})
    proof = fxsparse.verify(network, small)
    assert proof.max_error < 1e-9 < proof.effect
