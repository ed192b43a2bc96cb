"""What nobody reads protects nothing: the averaged weights of attention, of which only the result is used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Attending(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(5, 12), nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 5)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        made, weights = self.attention(y, y, y)
        result: Tensor = self.last(made)
        return result * weights.mean() if self.used else result


@pytest.mark.parametrize("used", [False, True])
def test_heads_may_go_where_nobody_reads_their_mean(used: bool) -> None:
    network = fxsparse.trace(Attending(used).eval(), torch.randn(2, 6, 5))
    heads = [g for g in network.groups if g.kind == "heads" and g.prunable]
    assert bool(heads) is not used
    small = network.shrink({g.name: g.units[1:] for g in network.groups if g.prunable})
    assert fxsparse.verify(network, small, inputs=torch.randn(3, 4, 5)).max_error <= 1e-9


class Noting(nn.Module):
    """A mean that nobody reads, and one that is kept in a buffer."""

    seen: Tensor

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        middle = y.mean()
        if self.kept:
            self.seen.copy_(middle)
        result: Tensor = self.last(y)
        return result


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_written_to_a_buffer_is_read(kept: bool) -> None:
    network = fxsparse.trace(Noting(kept).eval(), torch.randn(2, 5))
    first = next(g for g in network.groups if g.members[0].tensor.startswith("first") and g.members[0].axis == 0)
    assert first.prunable is not kept
