"""Untraced code may take another way among the same layers, by a tensor's value: the other ways are recorded as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse


def _part(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


class Ways(nn.Module):
    """Adds what two parts give before the same layers, or behind them."""

    def __init__(self, asks: str) -> None:
        super().__init__()
        self.left, self.right, self.first, self.second = _part(4, 8), _part(4, 8), _part(8, 5), _part(8, 5)
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        if self.asks == "truth":
            together = bool(x.sum() > 0)
        elif self.asks == "number":
            together = not x.sum().item() > 0.5
        elif self.asks == "both":
            together = False
            if bool(x.sum() > -9):
                together = bool(x.sum() > 0)
        elif self.asks == "much":
            together = int(40 * x.sum()) > 10
        elif self.asks == "below":
            together = float(x.sum()) < -3
        else:
            if bool(x.sum() > 1e9):
                raise RuntimeError("nobody comes here")
            together = bool(x.sum() > 0)
        result: Tensor = self.first(a + b) - self.second(b) if together else self.first(a) - self.second(b)
        return result


@pytest.mark.parametrize("asks", ["truth", "both", "number", "much", "below", "twice"])
def test_another_way_among_the_same_layers_couples_them(asks: str) -> None:
    torch.manual_seed(0)
    model = Ways(asks).eval()
    network = fxsparse.trace(model, torch.ones(2, 4))
    assert {"left", "right"} <= set(network.origin.islands)
    assert {("left.0.weight", 0), ("right.0.weight", 0)} <= {(m.tensor, m.axis) for m in network.group("left.0").members}
    small = network.shrink({"left.0": [0, 2, 3, 6]})
    with torch.no_grad():
        for name in ("left.0.weight", "left.0.bias", "right.0.weight", "right.0.bias"):
            model.get_parameter(name)[[1, 4, 5, 7]] = 0  # behind these, nothing is left of the others
    for x in (torch.ones(2, 4), -torch.ones(2, 4)):
        torch.testing.assert_close(small(x), model(x))


class Counting(nn.Module):
    """Goes as many rounds as a value says."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.round, self.head = _part(4, 8), _part(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for _ in range(int(x.abs().sum())):
            y = self.round(y)
        result: Tensor = self.head(y)
        return result


def test_as_many_rounds_as_a_value_says() -> None:
    model = Counting().eval()
    network = fxsparse.trace(model, torch.ones(1, 4))
    assert max(len(each.tape.calls) for each in network.origin.structure.reading.tapes) < 100, "a thousand rounds say no more than one"
    small = network.shrink({"stem.0": [0, 3, 5]})
    for scale in (0, 1, 3):
        assert small(torch.full((1, 4), float(scale))).shape == (1, 3)
    assert fxsparse.verify(network, small).max_error < 1e-9


class Shuffled(nn.Module):
    """Its part loses parts of interleaved channels, by one gather for all ways through it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2), nn.PixelUnshuffle(2), nn.Conv2d(32, 4, 1))
        self.head = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        result: Tensor = self.head(y + y) if bool(y.sum() > 0) else self.head(y)
        return result


def test_an_island_on_several_tapes_is_rewritten_once() -> None:
    network = fxsparse.trace(Shuffled().eval(), torch.randn(2, 3, 4, 4))
    assert len(network.origin.structure.reading.tapes) == 4  # two ways in each mode
    plan = {group.name: group.units[1:] for group in network.groups if group.prunable}
    assert "part.0" in plan
    assert fxsparse.verify(network, network.shrink(plan)).max_error < 1e-9


class Early(nn.Module):
    """Leaves early where the first head is sure: the second stage may run or not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage, self.exit, self.head = _part(4, 8), _part(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        first = self.exit(y)
        if bool(first.softmax(-1).amax() > 0.9):
            return torch.as_tensor(first)
        result: Tensor = self.head(self.stage(y))
        return result


def test_a_network_that_leaves_early_loses_channels_for_both_ends() -> None:
    network = fxsparse.trace(Early().eval(), torch.randn(1, 4))
    assert network.group("stem.0").prunable and network.group("stage.0").prunable
    small = network.shrink({"stem.0": [0, 3, 5], "stage.0": [1, 2]})
    for scale in (0.0, 1e6):
        x = scale * torch.randn(1, 4)
        assert small(x).shape == (1, 3)
    assert fxsparse.verify(network, small).max_error < 1e-9


LOOKS: dict[str, Callable[[Tensor], Any]] = {
    "not": lambda picked: 0,
    "list": lambda picked: picked.tolist()[0],
    "number": lambda picked: int(picked[0]),
    "array": lambda picked: np.asarray(picked)[0],
    "rows": lambda picked: len(torch.nonzero(picked)),
}


class Drawing(nn.Module):
    """Picks tokens at random, and may look at which."""

    def __init__(self, looks: str) -> None:
        super().__init__()
        self.stem, self.head, self.looks = _part(4, 8), _part(8, 3), looks

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if bool(x.sum() > 1e9):
            raise RuntimeError("nobody comes here")
        picked = torch.multinomial(torch.ones(5), 2)
        y = y[:, picked] if LOOKS[self.looks](picked) < 5 else y.flip(-1)[:, picked]
        result: Tensor = self.head(y)
        return result


@pytest.mark.parametrize("looks", sorted(LOOKS))
def test_what_is_drawn_at_random_matters_where_code_looks_at_it(looks: str) -> None:
    network = fxsparse.trace(Drawing(looks).eval(), torch.randn(2, 5, 4))
    assert network.group("stem.0").prunable is (looks == "not")
    if looks == "not":
        small = network.shrink({"stem.0": [0, 3, 5]})
        assert fxsparse.verify(network, small).max_error < 1e-9


UNTIL: dict[str, Callable[[Tensor], bool]] = {
    "no": lambda x: not bool(x.abs().max() < 1),
    "yes": lambda x: bool(x.abs().max() > 1),
    "small": lambda x: float(x.abs().max()) > 0.5,
    "large": lambda x: int(x.abs().max() * 100) < 200,
}


class Iterating(nn.Module):
    """Goes on until a value says enough."""

    def __init__(self, until: str) -> None:
        super().__init__()
        self.make, self.back, self.until = nn.Linear(4, 8), nn.Linear(8, 4), UNTIL[until]

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1000):
            if not self.until(x):
                break
            x = 0.1 * self.back(self.make(x).relu())
        result: Tensor = x + self.back(self.make(x).relu())
        return result


@pytest.mark.parametrize("until", sorted(UNTIL))
def test_a_loop_until_a_value_says_enough_ends_while_it_is_recorded(until: str) -> None:
    network = fxsparse.trace(Iterating(until).eval(), torch.randn(2, 4))
    longest = max(len(each.tape.calls) for each in network.origin.structure.reading.tapes)
    assert longest < 500 * 10
    small = network.shrink({"make": [0, 2, 5]}) if network.group("make").prunable else network
    assert fxsparse.verify(network, small).max_error < 1e-9


FINDS: dict[str, Callable[[Tensor], int]] = {
    "mask": lambda x: len(x[x > 1]),
    "nonzero": lambda x: len((x > 1).nonzero()),
    "selected": lambda x: torch.masked_select(x, x > 1).numel(),
    "list": lambda x: int(x.tolist()[0][0] > 0.5),  # 8 answers at one line
}


class Finding(nn.Module):
    """Goes on as long as something is found."""

    def __init__(self, finds: str) -> None:
        super().__init__()
        self.make, self.back, self.finds = nn.Linear(4, 8), nn.Linear(8, 4), FINDS[finds]

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2000):
            if not self.finds(x):
                break
            x = 0.1 * self.back(self.make(x).relu())
        result: Tensor = x + self.back(self.make(x).relu())
        return result


@pytest.mark.parametrize("finds", sorted(FINDS))
def test_a_loop_as_long_as_a_search_finds_something_ends_while_it_is_recorded(finds: str) -> None:
    network = fxsparse.trace(Finding(finds).eval(), torch.randn(2, 4))
    longest = max(sum("addmm" in call.name for call in each.tape.calls) for each in network.origin.structure.reading.tapes)
    assert longest < 2 * 600


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x).relu()
        return self.b(h), h


def test_what_a_part_gives_and_nobody_uses_may_go_to_a_layer_that_waits() -> None:
    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.late = Both(), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y, h = self.part(x)
            return y + self.late(h) if int(y.sum()) == 10 else y  # type: ignore[no-any-return]

    network = fxsparse.trace(Waiting().eval(), torch.randn(2, 4))
    assert network.origin.islands == ("part",)
    group = network.group("part.a")
    assert not group.prunable and "may be used in a branch not taken" in group.reason
    handed = [each.tape.handed for each in network.origin.structure.reading.tapes]
    assert all(len(values) == 2 for values in handed)  # in Python's hands, read or not
