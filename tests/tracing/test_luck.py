"""Random generators of a model's own: what they draw is no constant of a graph, and they go on as if nothing had been traced."""

from __future__ import annotations

import copy
import math
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse

BESIDE = np.random.default_rng(3)


class Noisy(nn.Module):
    """Scales by what its generator draws, in train mode."""

    def __init__(self, generator: Any, draw: Callable[[Any], float]) -> None:
        super().__init__()
        self.make, self.back, self.generator, self.draw = nn.Linear(4, 8), nn.Linear(8, 4), generator, draw

    def forward(self, x: Tensor) -> Tensor:
        y = self.make(x).relu()
        if self.training:
            y = y * self.draw(self.generator if self.generator is not None else BESIDE)
        result: Tensor = self.back(y)
        return result


KINDS: dict[str, Callable[[], Noisy]] = {
    "numpy": lambda: Noisy(np.random.default_rng(1), lambda g: float(g.random())),
    "old numpy": lambda: Noisy(np.random.RandomState(1), lambda g: float(g.normal())),
    "python": lambda: Noisy(random.Random(1), lambda g: float(g.random())),
    "beside the class": lambda: Noisy(None, lambda g: float(g.uniform(0.1, 1.0))),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_a_generator_of_its_own_draws_is_no_constant(kind: str) -> None:
    model, x = KINDS[kind](), torch.randn(3, 4)
    state = str(BESIDE.bit_generator.state)
    network = fxsparse.trace(model.eval(), x)
    assert state == str(BESIDE.bit_generator.state)
    assert "train mode stays in plain Python" in network.notes[0]
    mine, theirs = copy.deepcopy(network.module).train(), copy.deepcopy(model).train()
    before = BESIDE.bit_generator.state
    drawn = [theirs(x) for _ in range(3)]
    BESIDE.bit_generator.state = before
    for wanted in drawn:
        torch.testing.assert_close(mine(x), wanted)
    assert not torch.equal(drawn[0], drawn[1])


class LayerDrop(nn.Module):
    """Draws a number for each layer in both modes, and looks at it in train mode, or always."""

    def __init__(self, draw: Callable[[], Any], always: bool = False) -> None:
        super().__init__()
        self.layers, self.draw, self.always = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), draw, always

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            drawn = self.draw()
            if (self.training or self.always) and drawn < 0.1:
                continue
            x = x + layer(x).relu()
        return x


DRAWS: dict[str, Callable[[], Any]] = {
    "random": lambda: random.random(),
    "uniform of Python": lambda: random.uniform(0, 1),
    "uniform of numpy": lambda: np.random.uniform(0, 1),
    "normal of numpy": lambda: np.random.normal(),
}


@pytest.mark.parametrize("draw", sorted(DRAWS))
def test_a_number_that_nobody_looks_at_stands_in_no_graphs_way(draw: str) -> None:
    x = torch.randn(2, 4)
    model = LayerDrop(DRAWS[draw]).eval()
    network = fxsparse.trace(model, x)
    assert network.origin.islands == ("",) and "train mode stays in plain Python" in network.notes[0]
    torch.testing.assert_close(network(x), model(x))
    looking = fxsparse.trace(LayerDrop(DRAWS[draw], always=True).eval(), x)
    assert "draws numbers" in looking.notes[0] or "RandomNumber" in looking.notes[0]
    assert network.origin.islands != looking.origin.islands


UNWATCHED: dict[str, Callable[[], Any]] = {
    "a whole number": lambda: np.random.randint(2),
    "an array": lambda: np.random.rand(2)[0],
    "a choice": lambda: random.choice([0.2, 0.3]),
}


@pytest.mark.parametrize("draw", sorted(UNWATCHED))
def test_draws_that_cannot_be_watched_count_as_looked_at(draw: str) -> None:
    network = fxsparse.trace(LayerDrop(UNWATCHED[draw]).eval(), torch.randn(2, 4))
    assert "draws numbers" in network.notes[0]


class Scaled(nn.Module):
    """Uses what it draws in every way that it can be used."""

    def __init__(self, use: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.fc, self.use = nn.Linear(4, 4), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.fc(x), random.random())


USES: list[Callable[[Tensor, Any], Tensor]] = [
    lambda x, d: x * d,
    lambda x, d: d * x,
    lambda x, d: x + d,
    lambda x, d: x * float(d),
    lambda x, d: x * math.sqrt(d),
    lambda x, d: torch.mul(x, d),
    lambda x, d: x.mul(d),
    lambda x, d: x * torch.tensor(d),
    lambda x, d: x * (d + 1),
    lambda x, d: x * (1 - d),
    lambda x, d: x * round(d, 1),
    lambda x, d: x if d else x + 1,
    lambda x, d: x * {d: 2}.get(d, 1),
    lambda x, d: x * d.real,
    lambda x, d: x * len(f"{d:.5f}"),
    lambda x, d: x * max(d, 0.5),
    lambda x, d: x * np.float64(d).item(),
    lambda x, d: x * torch.full((4,), d),
    lambda x, d: torch.nn.functional.dropout(x, d),
    lambda x, d: torch.where(torch.rand(4) > d, x, x + 1),
]


@pytest.mark.parametrize("use", range(len(USES)))
def test_a_number_that_is_used_is_no_constant(use: int) -> None:
    try:
        network = fxsparse.trace(Scaled(USES[use]).eval(), torch.randn(2, 4))
    except fxsparse.TraceError:
        return
    assert network.origin.islands != ("",)


TORCH_BESIDE = torch.Generator().manual_seed(3)


class Sprinkled(nn.Module):
    """Adds noise of torch generators, one of its own and one beside it; and may break off."""

    def __init__(self, breaks: bool) -> None:
        super().__init__()
        self.make, self.back, self.breaks = nn.Linear(4, 8), nn.Linear(8, 4), breaks
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.back(self.make(x).relu())
        y = y + torch.rand(4, generator=self.generator) + torch.rand(4, generator=TORCH_BESIDE)
        if self.breaks:
            raise ValueError("no")
        return y


@pytest.mark.parametrize("breaks", [False, True])
def test_generators_of_torch_go_on_as_if_nothing_had_been_traced(breaks: bool) -> None:
    model = Sprinkled(breaks).eval()
    before = [each.get_state() for each in (model.generator, TORCH_BESIDE)]
    if breaks:
        with pytest.raises(fxsparse.TraceError, match="ValueError"):
            fxsparse.trace(model, torch.randn(2, 4))
    else:
        fxsparse.trace(model, torch.randn(2, 4))
    assert all(torch.equal(a, b.get_state()) for a, b in zip(before, (model.generator, TORCH_BESIDE), strict=True))


class Watching(nn.Module):
    """What another thread draws while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        other = threading.Thread(target=lambda: DRAWN.append(random.random()))
        other.start()
        other.join()
        result: Tensor = self.make(x)
        return result


DRAWN: list[Any] = []


def test_other_threads_draw_plain_floats_meanwhile() -> None:
    fxsparse.trace(Watching().eval(), torch.randn(2, 4))
    assert DRAWN and all(type(each) is float for each in DRAWN)
