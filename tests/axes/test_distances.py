"""Distances of rows (torch.cdist): what both sides lack is no distance; what only one lacks would be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Quantised(nn.Module):
    """The nearest of the vectors of a book stands for each place."""

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.encoder, self.book, self.decoder = nn.Conv2d(3, 8, 4, 4), nn.Embedding(30, 8), nn.ConvTranspose2d(8, 3, 4, 4)
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x).permute(0, 2, 3, 1)
        q = self.book(torch.cdist(z.flatten(0, 2), self.book.weight, p=self.power).argmin(-1)).view(z.shape)
        out: Tensor = self.decoder((z + (q - z).detach()).permute(0, 3, 1, 2))
        return out


class Near(nn.Module):
    """Attention by distance instead of by product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 16), nn.Linear(3, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.a(x), self.b(y)
        out: Tensor = self.head(torch.softmax(-torch.cdist(a, b), -1) @ b)
        return out


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
@pytest.mark.parametrize("extent", [8, 32])  # few rows and many go through different kernels
def test_the_book_loses_what_the_encoder_loses(power: float, extent: int) -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Quantised(power).eval(), torch.randn(2, 3, extent, extent))
    (group,) = (group for group in network.groups if group.prunable)
    roles = {(member.tensor, member.axis): member.role for member in group.members}
    assert roles["encoder.weight", 0] == roles["book.weight", 1] == "produces"
    small = network.shrink({group.name: [0, 2, 3, 7]})
    assert small.module.get_parameter("book.weight").shape == (30, 4)
    proof = fxsparse.verify(network, small)
    assert proof.max_error < 1e-9 < proof.effect


@pytest.mark.parametrize("power", [0.0, math.inf])
def test_a_count_and_a_greatest_are_of_the_whole(power: float) -> None:
    network = fxsparse.trace(Quantised(power).eval(), torch.randn(2, 3, 32, 32))
    assert not any(group.prunable for group in network.groups)
    assert "_cdist_forward counts it, or takes its greatest" in {group.reason for group in network.groups}


@pytest.mark.parametrize("shapes", [((2, 40, 3), (2, 50, 3)), ((2, 4, 3), (1, 5, 3))])
def test_two_activations(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Near().eval(), tuple(torch.randn(shape) for shape in shapes))
    (group,) = (group for group in network.groups if group.prunable)
    small = network.shrink({group.name: list(range(0, 16, 3))})
    proof = fxsparse.verify(network, small)
    assert proof.max_error < 1e-9 < proof.effect
