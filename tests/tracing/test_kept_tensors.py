"""A model whose functions keep tensors is traced like any other, as often as one likes."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import fxsparse


@functools.lru_cache(maxsize=4)
def ramp(width: int) -> Tensor:
    return torch.arange(width) / width


@functools.cache
def ramps(width: int, device: torch.device) -> dict[str, Tensor]:
    return {"up": torch.arange(width, device=device), "down": -torch.arange(width, device=device)}


class Cached(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(4, 6), nn.Linear(6, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        y = x + (ramp(4) if self.kind == "bounded" else ramps(4, x.device)["up"])
        out: Tensor = self.b(torch.dropout(self.a(y), 0.5, self.training))
        return out


@pytest.mark.parametrize("kind", ["bounded", "unbounded"])
def test_a_cache_is_no_hindrance(kind: str) -> None:
    model, x = Cached(kind).eval(), torch.randn(2, 4)
    for _ in range(2):
        expected = model(x)
        network = fxsparse.trace(model, x)
        assert network.origin.islands == ("",) and not network.notes
        torch.testing.assert_close(network(x), expected)
        assert fxsparse.verify(network, network.shrink({"a": range(4)})).effect > 0


def test_a_stranger_that_is_in_no_cache_is_named() -> None:
    network = fxsparse.trace(Stranger(), torch.randn(2, 4))
    assert "comes from nowhere" in network.notes[0] and network.origin.islands == ()


class Stranger(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + ramp(4) + ELSEWHERE[0]


ELSEWHERE = [torch.ones(4)]
