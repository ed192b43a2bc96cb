"""Pools of which one axis is the channels', with windows of a single coordinate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse


class Pooled(nn.Module):
    """Steps and channels as an image of one channel."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.pool = nn.Linear(3, 8), nn.LazyLinear(2), pool

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.pool(self.first(x).unsqueeze(1)).squeeze(1))
        return result


PASSED = {
    "maximum": lambda y: F.max_pool2d(y, (2, 1), ceil_mode=True),
    "mean": lambda y: F.avg_pool2d(y, (3, 1), stride=(2, 1), padding=(1, 0)),
    "before them": lambda y: F.avg_pool2d(y.mT, (1, 2)).mT,
    "all steps": lambda y: F.max_pool2d(y, (4, 1), stride=1),
}
TAKEN = {
    "two at once": lambda y: F.max_pool2d(y, (1, 2)),
    "every second": lambda y: F.max_pool2d(y, 1, stride=(1, 2)),
    "neighbours": lambda y: F.avg_pool2d(y, 3, stride=1, padding=1),
    "numbers of the maxima": lambda y: (lambda out: out[0] + out[1])(F.max_pool2d(y, (2, 1), return_indices=True)),
}


def traced(pool: Callable[[Tensor], Tensor]) -> fxsparse.Network:
    torch.manual_seed(0)
    model, x = Pooled(pool).eval(), torch.randn(2, 4, 3)
    model(x)
    return fxsparse.trace(model, x, check=True)


@pytest.mark.parametrize("name", PASSED)
def test_channels_pass(name: str) -> None:
    network = traced(PASSED[name])
    proof = fxsparse.verify(network, network.shrink({"first": [0, 2, 3, 7]}))
    assert proof.max_error < 1e-9 < proof.effect


@pytest.mark.parametrize("name", TAKEN)
def test_windows_of_channels_protect_them(name: str) -> None:
    (reason,) = (group.reason for group in traced(TAKEN[name]).groups if group.name == "first")
    assert reason is not None
    assert reason.endswith("takes windows of it")
