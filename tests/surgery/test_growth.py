"""Growth with zeros: the function stays, and what has grown learns; where no zeros can do that, a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse


class Attention(nn.Module):
    """One packed projection, laid out in this order of (three, heads, head dimensions)."""

    def __init__(self, order: str, fused: bool) -> None:
        super().__init__()
        self.order, self.fused = order, fused
        self.qkv, self.proj = nn.Linear(5, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        batch, length, _ = x.shape
        packed = self.qkv(x)
        if self.order == "3hd":
            q, k, v = packed.view(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.order == "h3d":
            q, k, v = packed.view(batch, length, 2, 3, 4).permute(3, 0, 2, 1, 4).unbind(0)
        else:
            q, k, v = (each.view(batch, length, 2, 4).transpose(1, 2) for each in packed.chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, length, 8))


class Probe(nn.Module):
    """Queries that are weights, in heads: they silence what they meet as well as they make it."""

    def __init__(self) -> None:
        super().__init__()
        self.probe, self.kv, self.proj = nn.Parameter(torch.randn(1, 8)), nn.Linear(5, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        batch, length, _ = x.shape
        k, v = self.kv(x).view(batch, length, 2, 2, 4).permute(2, 0, 3, 1, 4)
        q = self.probe.expand(batch, 8).reshape(batch, 1, 2, 4).transpose(1, 2)
        out = (q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, 8))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Any:
        return F.linear(self.embed(tokens) + torch.tanh(self.mix(self.embed(tokens))), self.embed.weight)


class Energy(nn.Module):
    """Nothing consumes the units: they are summed over."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.b = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Any:
        return (self.a(x) * self.b(x)).sum(-1)


class Sigmoids(nn.Module):
    """What is summed over is never zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Any:
        return self.a(x).sigmoid().sum(-1)


def grown(network: fxsparse.Network, name: str, journal: bool) -> tuple[fxsparse.Network, fxsparse.Network]:
    units = network.group(name).units
    dense = network if journal else network.regrow({}, init="fresh")
    small = dense.shrink({name: units[: len(units) // 2]})
    if not journal:
        small = type(small)(small.module, small.origin, small.living)
    return small, small.regrow({name: units[len(units) // 2 :]}, init="zero")


def assert_silent_and_learning(network: fxsparse.Network, name: str, x: Tensor, journal: bool) -> None:
    small, large = grown(network, name, journal)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x), rtol=1e-9, atol=1e-9)
    large(x).square().sum().backward()
    learns = []
    for member in large.group(name).members:
        gradient = large.module.get_parameter(member.tensor).grad
        new = [i for i in large.kept[member.tensor][member.axis] if i not in small.kept[member.tensor][member.axis]]
        positions = [large.kept[member.tensor][member.axis].index(i) for i in new]
        learns.append(gradient is not None and bool(gradient.index_select(member.axis, torch.tensor(positions)).any()))
    assert any(learns)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "packed as 3, heads, dimensions": (lambda: Attention("3hd", False), lambda: torch.randn(2, 7, 5).double()),
    "packed as heads, 3, dimensions": (lambda: Attention("h3d", False), lambda: torch.randn(2, 7, 5).double()),
    "chunked": (lambda: Attention("chunk", False), lambda: torch.randn(2, 7, 5).double()),
    "fused": (lambda: Attention("chunk", True), lambda: torch.randn(2, 7, 5).double()),
    "met by weights": (Probe, lambda: torch.randn(2, 7, 5).double()),
    "consumed by nothing": (Energy, lambda: torch.randn(4, 5).double()),
    "tied": (Tied, lambda: torch.randint(0, 9, (2, 4))),
}


@pytest.mark.parametrize("journal", [True, False])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_what_grows_is_silent_and_learns(name: str, journal: bool) -> None:
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    x = inputs()
    network = fxsparse.trace(build().double().eval(), x)
    groups = [group for group in network.groups if group.prunable and len(group.units) > 1]
    assert groups
    for group in groups:
        assert_silent_and_learning(network, group.name, x, journal)


def test_what_cannot_be_silent_is_refused() -> None:
    network = fxsparse.trace(Sigmoids().double().eval(), torch.randn(2, 5).double())
    small = network.shrink({"a": [0, 1]})
    with pytest.raises(fxsparse.PlanError, match="group 'a' reaches what lives without passing a weight that could be zero"):
        small.regrow({"a": [2]}, init="zero")
    assert small.regrow().living == network.living


def test_units_that_are_there_cannot_grow() -> None:
    network = fxsparse.trace(Energy(), torch.randn(2, 5))
    with pytest.raises(fxsparse.PlanError, match="unit 0 of group 'a' has not been removed"):
        network.regrow({"a": [0]})
