"""Sizes in Python code that cannot be traced: such groups are protected before anyone plans with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.surgery.feasible import feasible


class Written(nn.Module):
    """Untraceable, with one width written in a view, and one that the code takes from its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8))
        self.follows = nn.Linear(8, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if bool(y.sum() > 1e9):
            y = y * 2
        y = self.follows(y.view(-1, 8))
        result: Tensor = self.head(y.view(-1, y.shape[-1]))
        return result


def test_only_the_group_whose_size_is_written_is_protected() -> None:
    network = fxsparse.trace(Written().eval(), torch.randn(2, 4))
    origin = network.origin
    structure = feasible(origin.skeleton, origin.structure, origin.inputs)
    assert not structure.groups["inner.2"].prunable and "plain Python" in structure.groups["inner.2"].reason
    assert structure.groups["inner.0"].prunable and structure.groups["follows"].prunable
    small = network.shrink({"inner.0": [0, 2], "follows": [1, 3, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-12


def test_the_verdict_is_that_of_shrink() -> None:
    network = fxsparse.trace(Written().eval(), torch.randn(2, 4))
    origin = network.origin
    for name, group in feasible(origin.skeleton, origin.structure, origin.inputs).groups.items():
        if group.prunable:
            network.shrink({name: list(group.units[:-1])})
        else:
            with pytest.raises(fxsparse.PlanError):
                network.shrink({name: list(group.units[:-1])})


def test_a_network_that_is_traced_whole_is_left_alone() -> None:
    network = fxsparse.trace(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)).eval(), torch.randn(2, 4))
    origin = network.origin
    assert feasible(origin.skeleton, origin.structure, origin.inputs) is origin.structure


class Branching(nn.Module):
    """Untraceable, with a branch that is not taken while it is recorded."""

    def __init__(self, spare: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8))
        self.branch = nn.Linear(8, 8) if spare else nn.Identity()
        self.head = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if float(y.sum()) > 1e9:
            y = self.branch(y)
        result: Tensor = self.head(y)
        return result


def test_what_may_go_into_a_branch_that_was_not_taken_is_protected() -> None:
    network = fxsparse.trace(Branching(spare=True).eval(), torch.randn(2, 4))
    assert not network.group("inner.2").prunable
    assert "branch" in network.group("inner.2").reason
    assert network.group("inner.0").prunable and network.group("head.0").prunable
    assert fxsparse.trace(Branching(spare=False).eval(), torch.randn(2, 4)).group("inner.2").prunable
