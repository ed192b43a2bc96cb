"""Parts whose sizes depend on values stay Python: what the recorder made up for them may not decide what their graph does."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

import fxsparse


class Finder(nn.Module):
    """Looks at the rows that it finds, and does something else where it finds none."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.where(self.score(x)[:, 0] > 0)[0]
        return x[found] if found.numel() else self.other(x)


class Shell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.finder = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), Finder()

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        out: Tensor = self.finder(y) if bool(y.sum() > -1) else y
        return out


def test_a_part_that_finds_rows_is_no_island() -> None:
    model = Shell().eval()
    network = fxsparse.trace(model, torch.randn(5, 4))
    assert network.origin.islands == ("part",)
    for bias in (-100.0, 0.0, 100.0):
        with torch.no_grad():
            model.finder.score.bias.fill_(bias)
        x = torch.randn(5, 4)
        torch.testing.assert_close(network(x), model(x))
    assert type(network.module.get_submodule("finder")) is Finder


class Dropped(nn.Module):
    """Leaves out layers at random, and looks at what it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            chance = (random.random(), float(np.random.uniform()), float(torch.rand([])))[index % 3]
            if chance < 0.5 or bool(x.sum() > 1e9):
                x = x + layer(x)
        return x


def test_what_is_drawn_is_the_same_in_each_recording_and_the_generators_go_on() -> None:
    model = Dropped().eval()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist(), random.getstate()
    network = fxsparse.trace(model, torch.zeros(2, 6))
    assert network.origin.islands
    for _ in range(3):
        network.shrink({group.name: group.units[:-1] for group in network.groups if group.prunable})
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state(legacy=False)["state"]["key"].tolist(), random.getstate())


class Masking(nn.Module):
    """A mask or None, as the values of an input ask for; and a second question, to which a yes is no way to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = Masked(), nn.Linear(6, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask.sum() < 0:
            raise ValueError("no mask is negative")
        given = None if mask.all() else mask
        out: Tensor = self.head(self.part(x, given))
        return out


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y if mask is None else y * mask


def test_each_question_is_answered_the_other_way_once() -> None:
    model, x = Masking().eval(), torch.randn(3, 4)
    half = torch.tensor([[1.0], [0.0], [1.0]])
    network = fxsparse.trace(model, (x, half))
    small = network.shrink({"part.first": network.group("part.first").units[2:]})
    for mask in (half, torch.ones(3, 1)):
        torch.testing.assert_close(network.module(x, mask), model(x, mask))
        assert small.module(x, mask).shape == (3, 2)
    assert "part" not in network.origin.islands
