"""Sizes in the graph after a change of widths: right for the example inputs, and for any other batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse


class Around(nn.Module):
    """Two linear layers, and a function between them that keeps the shape (batch, length, 24)."""

    def __init__(self, between: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)
        self.between = between

    def forward(self, x: Tensor) -> Any:
        return self.last(self.between(self.first(x)))


def heads_in_the_batch(y: Tensor) -> Tensor:
    batch, length, _ = y.shape
    q = y.transpose(0, 1).reshape(length, batch * 4, 6).transpose(0, 1)
    out = (q @ q.transpose(1, 2)).softmax(-1) @ q
    return out.transpose(0, 1).reshape(length, batch, 24).transpose(0, 1)


def two_sizes_of_heads_and_batch(y: Tensor) -> Tensor:
    batch, length, _ = y.shape
    z = torch.zeros(batch * 4, length, 6)
    heads = y.view(batch, length, 4, 6).transpose(1, 2).reshape(batch * 4, length, 6)
    return torch.cat([z, heads.relu()], 2)[..., 6:].view(batch, 4, length, 6).transpose(1, 2).reshape(batch, length, 24)


def slices_of_heads_and_batch(y: Tensor) -> Tensor:
    batch, length, _ = y.shape
    heads = y.view(batch, length, 4, 6).permute(2, 0, 1, 3).reshape(4 * batch, length, 6)
    heads = torch.cat([heads[batch:].relu(), heads.narrow(0, 0, batch)], 0)
    return heads.view(4, batch, length, 6).permute(1, 2, 0, 3).reshape(batch, length, 24)


def chunks_of_heads_and_batch(y: Tensor) -> Tensor:
    batch, length, _ = y.shape
    heads = y.view(batch, length, 4, 6).permute(2, 0, 1, 3).reshape(4 * batch, length, 6)
    a, b = heads.chunk(2, 0)
    return torch.cat([b.relu(), a], 0).view(4, batch, length, 6).permute(1, 2, 0, 3).reshape(batch, length, 24)


def split_over_positions_and_batch(y: Tensor) -> Any:
    batch, length, _ = y.shape
    flat = y.reshape(batch * length, 4, 6).reshape(batch * length * 4, 6)
    return flat.relu().unflatten(0, (batch * length, 4)).flatten(1).view(batch, length, 24)


def batch_out_of_heads_and_batch(y: Tensor) -> Tensor:
    batch, length, _ = y.shape
    heads = y.view(batch, length, 4, 6).transpose(1, 2).reshape(batch * 4, length, 6).relu()
    return heads.reshape(heads.shape[0] // 4, 4, length, 6).transpose(1, 2).reshape(heads.shape[0] // 4, length, 24)


def batch_of_a_token_out_of_heads_and_batch(y: Tensor) -> Tensor:
    tokens = torch.zeros(1, 1, 24).expand(y.shape[0], 1, 24)
    return batch_out_of_heads_and_batch(torch.cat([tokens, y], 1))


def a_count_of_the_batch(y: Tensor) -> Tensor:
    heads = y.unflatten(2, (4, 6)).transpose(1, 2).flatten(0, 1)
    table = torch.ones(1, y.shape[1], 6).repeat(heads.size(0) // 4, 1, 1)
    out: Tensor = (heads.relu().unflatten(0, (-1, 4)) * table[:, None]).transpose(1, 2).flatten(2)
    return out


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "batch, counted by heads": a_count_of_the_batch,
    "batch x heads": heads_in_the_batch,
    "batch out of batch x heads": batch_out_of_heads_and_batch,
    "batch of a token out of batch x heads": batch_of_a_token_out_of_heads_and_batch,
    "zeros": two_sizes_of_heads_and_batch,
    "slices": slices_of_heads_and_batch,
    "chunks": chunks_of_heads_and_batch,
    "batch x positions x heads": split_over_positions_and_batch,
    "numel": lambda y: y.relu().view(y.numel() // 24, 24).view(y.shape[0], y.shape[1], -1),
    "tiled": lambda y: y.relu().tile(1, 1, 2)[..., :24],
    "tiled with fewer numbers": lambda y: y.relu().tile(2)[..., 24:],
    "divided by a count": lambda y: y / (y.shape[0] * y.shape[2]),
    "divided by a sum of counts": lambda y: y / (y.shape[0] + y.shape[2] ** 0.5),
    "thirds": lambda y: torch.cat([y[..., 2 * (y.shape[-1] // 3) :], y[..., : 2 * (y.shape[-1] // 3)].tanh()], -1),
    "normalised to a width": lambda y: F.relu(y) * y.shape[-1] ** -0.5,
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_the_batch_stays_dynamic_when_widths_change(name: str) -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Around(FUNCTIONS[name]).eval(), torch.randn(2, 5, 6))
    assert network.origin.islands == ("",)
    for gone in (0, 1):
        plan = {g.name: [u for u in g.units if u != gone] for g in network.groups if g.prunable and len(g.units) > 1}
        assert plan
        small = network.shrink(plan)
        assert small.parameter_count < network.parameter_count
        for batch, length in ((2, 5), (3, 5), (1, 4)):
            assert fxsparse.verify(network, small, inputs=(torch.randn(batch, length, 6),)).max_error <= 1e-9


def test_a_factor_of_a_tiling_may_go() -> None:
    class Tiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Any:
            return self.head(torch.tile(x, (1, 2, 1, 1)).amax((2, 3)))

    network = fxsparse.trace(Tiled().eval(), torch.randn(2, 4, 5, 5))
    (tiles,) = [group for group in network.groups if group.prunable]
    small = network.shrink({tiles.name: [1]})
    assert small.module.get_parameter("head.weight").shape == (3, 4)
    assert fxsparse.verify(network, small).max_error <= 1e-9


EQUATIONS = ("bnik,bnjk->bnij", "bnik,bnjk->bijn", "bnik,bmik->bnm", "bnik,bnjl->bkl")


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_with_a_single_unit(equation: str) -> None:
    """With an axis of one coordinate, einsum calls other operators."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(5, 72), nn.Linear(5, 72)

        def forward(self, x: Tensor) -> Any:
            q, k = (layer(x).view(-1, 3, 4, 6).relu() for layer in (self.q, self.k))
            return torch.einsum(equation, q, k)

    network = fxsparse.trace(Product().eval(), torch.randn(2, 5))
    tried = 0
    for group in network.groups:
        if group.prunable and len(group.units) > 1:
            tried += 1
            assert fxsparse.verify(network, network.shrink({group.name: [1]})).max_error <= 1e-9
    assert tried


class UnfoldedOfOneChannel(nn.Module):
    """With one channel left, torch's reshape makes the very same view and writes its sizes out, where it passed -1 on before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        rows = y.chunk(2, 1)[1].flatten(2).reshape(-1, 16)
        return self.last(torch.cat([y.mean((2, 3)), rows.reshape(-1, 2, 16).mean(2)], 1))


def test_a_view_that_torch_writes_in_another_way() -> None:
    network = fxsparse.trace(UnfoldedOfOneChannel().eval(), torch.randn(2, 3, 4, 4))
    assert [len(group.units) for group in network.groups if group.prunable] == [2, 2]
    small = network.shrink({group.name: [0] for group in network.groups if group.prunable})
    assert fxsparse.verify(network, small).max_error < 1e-12
    for batch in (1, 3):
        assert small.module(torch.randn(batch, 3, 4, 4)).shape == (batch, 5)


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "beside one that takes all": lambda y: y[:, :5, :4, :3],
    "of the last axis, beside one that takes all": lambda y: y.permute(0, 2, 3, 1)[:, :4, :4, 1:5],
    "after an index": lambda y: y.permute(0, 2, 3, 1)[:, 0, :4, :5],
    "after a new axis": lambda y: y[:, None, 1:4, ..., 2],
    "before a new axis": lambda y: y[:, 1:5, None, :4, :2],
    "after an ellipsis": lambda y: y[..., :4, :4, :4],
    "from the end": lambda y: y[:, -4:, 0],
    "twice": lambda y: y[:, 3, :4][:, 1:3],
    "beside a tensor": lambda y: y[:, :4, torch.tensor([0, 1]), :4],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_slices_of_pruned_axes(cut: Callable[[Tensor], Tensor]) -> None:
    """Each unit alone, and all of them but one: a slice may come to take a whole axis, which is no call."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.last = nn.Linear(cut(torch.zeros(1, 6, 4, 4)).numel(), 2)

        def forward(self, x: Tensor) -> Any:
            return self.last(cut(self.first(x)).flatten(1))

    network = fxsparse.trace(Cut().eval(), torch.randn(2, 3, 4, 4))
    groups = [group for group in network.groups if group.prunable]
    assert groups
    for group in groups:
        for unit in group.units if len(group.units) > 1 else ():
            for keep in ([unit], [other for other in group.units if other != unit]):
                assert fxsparse.verify(network, network.shrink({group.name: keep})).max_error < 1e-12


def test_a_layer_that_no_longer_copies_its_input() -> None:
    """Of one channel, a transposed image is contiguous, and the kernel of a group norm makes no copy of it."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(8, 2), nn.GroupNorm(2, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Any:
            return self.last(self.norm(self.first(x).transpose(1, 2)).mean(2))

    network = fxsparse.trace(Normed().eval(), torch.randn(2, 4, 8))
    (group,) = [group for group in network.groups if group.prunable]
    assert fxsparse.verify(network, network.shrink({group.name: [1]})).max_error < 1e-12


class Gated(nn.Module):
    """What comes out of a layer takes the form of what goes in, which has channels of its own."""

    def __init__(self, form: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        y = self.first(x).relu()
        return self.last(self.form(self.gate(y.flatten(0, 1)), y))


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reshape_as": lambda a, b: a.reshape_as(b),
    "view_as": lambda a, b: a.view_as(other=b),
    "expand_as": lambda a, b: a[:1].expand_as(b),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_a_tensor_with_other_channels(name: str) -> None:
    network = fxsparse.trace(Gated(FORMS[name]).eval(), torch.randn(2, 5, 6))
    assert {g.name for g in network.groups if g.prunable} == {"first", "gate"}
    for plan in ({"first": [0, 3, 4]}, {"gate": [1, 2, 5, 7]}, {"first": [0, 3], "gate": [2, 6, 7]}):
        small = network.shrink(plan)
        for shape in ((2, 5, 6), (3, 4, 6)):
            assert fxsparse.verify(network, small, inputs=torch.randn(shape)).max_error <= 1e-9


def test_a_scale_by_a_root_of_a_width_stays_what_it_was_down_to_one() -> None:
    """(width // heads) ** -0.5, where fewer channels than heads are left: 0 ** -0.5 is no number."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.qkv, self.out, self.heads = nn.Linear(4, 8), nn.Linear(8, 24), nn.Linear(8, 8), 2

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
            weights = (q @ k.mT * (c // self.heads) ** -0.5).softmax(-1)
            out: Tensor = self.out((weights @ v).transpose(1, 2).reshape(b, n, c)).sum(1)
            return out

    torch.manual_seed(0)
    network = fxsparse.trace(Attention().eval(), torch.randn(2, 3, 4), check=True)
    for units in ([1], [0, 5], [0, 1, 2, 6, 7]):
        small = network.shrink({"embed": units})
        assert fxsparse.verify(network, small).max_error < 1e-9
        assert small.module(torch.randn(5, 7, 4)).shape == (5, 8)
