"""A tensor in the place of the number that a new tensor is filled with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Filled(nn.Module):
    """The steps of a detector's levels, which it keeps in a tensor."""

    def __init__(self, fill: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.steps = torch.tensor([8.0, 16.0])
        self.fill = fill

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        out: Tensor = self.b(x * self.fill(x, self.steps[1]))
        return out


@pytest.mark.parametrize(
    "fill",
    [
        lambda x, step: x.new_full((x.shape[0], 1), step),
        lambda x, step: x.new_full((x.shape[0], 1), fill_value=step, dtype=torch.float64).float(),
        lambda x, step: torch.full((x.shape[0], 1), step),
        lambda x, step: torch.full(size=(x.shape[0], 1), fill_value=step.long()) / 4,
        lambda x, step: torch.full_like(x, step),
    ],
    ids=["new_full", "new_full by name", "full", "full of whole numbers", "full_like"],
)
def test_it_is_followed(fill: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = Filled(fill).eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x, check=True)
    assert network.origin.islands == ("",)
    assert network(x).dtype == model(x).dtype
    small = network.shrink({"a": [0, 2, 5]})
    assert fxsparse.verify(network, small).effect > 0
    assert small(torch.randn(5, 4)).shape == (5, 3)
