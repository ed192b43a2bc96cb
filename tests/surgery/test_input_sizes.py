"""Channels that a view moves into the places of an image, as many as the image has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Regrouping(nn.Module):
    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.fixed = fixed

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        b, c, h, w = x.shape
        y = self.second(images).flatten(2).transpose(1, 2)
        out: Tensor = self.last(x + (y.reshape(b, 8, 2, 2) if self.fixed else y.reshape(b, c, h, w)))
        return out


class Windows(nn.Module):
    """Windows, heads in the batch, and back: sizes of the image everywhere, and no channel among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b * (h // 2) * (w // 2), 4, c)
        q, k, v = self.qkv(x).view(x.shape[0], 4, 3, 2, 4).permute(2, 0, 3, 1, 4).reshape(3, x.shape[0] * 2, 4, 4).unbind(0)
        x = ((q @ k.mT).softmax(-1) @ v).view(-1, 2, 4, 4).transpose(1, 2).flatten(2)
        x = x.view(b, h // 2, w // 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, 8)
        out: Tensor = self.last(x)
        return out


def test_they_stay_whole() -> None:
    network = fxsparse.trace(Regrouping(fixed=False).eval(), torch.randn(2, 3, 2, 2))
    assert not [group.name for group in network.groups if group.prunable]
    assert "a view splits it by a size of the network's input" in {group.reason for group in network.groups}


def test_where_the_network_takes_one_size_alone_they_may_go() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Regrouping(fixed=True).eval(), torch.randn(2, 3, 2, 2))
    (group,) = (group for group in network.groups if group.prunable)
    proof = fxsparse.verify(network, network.shrink({group.name: [0]}))
    assert proof.max_error < 1e-9 < proof.effect


def test_windows_and_heads_are_no_hindrance() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Windows().eval(), torch.randn(2, 3, 4, 4))
    prunable = [group for group in network.groups if group.prunable]
    assert {group.kind for group in prunable} == {"channels", "heads", "head_dim"}
    small = network.shrink({group.name: list(group.units)[1:] for group in prunable})
    assert fxsparse.verify(network, small).max_error < 1e-9
    assert small.module(torch.randn(3, 3, 6, 8)).shape == (3, 6, 8, 4)


class Attention(nn.Module):
    """What it takes has as many channels as its first layer wants."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        out: Tensor = self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
        return out


def test_a_size_that_a_layer_fixes_is_the_same_for_all_inputs() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Attention().eval(), torch.randn(2, 5, 8))
    assert {group.kind for group in network.groups if group.prunable} == {"heads", "head_dim"}
    small = network.shrink({group.name: group.units[1:] for group in network.groups if group.prunable})
    assert fxsparse.verify(network, small).max_error < 1e-12
    assert small(torch.randn(3, 7, 8)).shape == (3, 7, 8)


class Unread(nn.Module):
    """Of its second input nothing is asked but a size, or not even that."""

    def __init__(self, asked: bool) -> None:
        super().__init__()
        self.first, self.last, self.asked = nn.Linear(3, 4), nn.Linear(4, 2), asked

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x))
        return out + torch.zeros(other.shape[0], 1) if self.asked else out


@pytest.mark.parametrize("asked", [False, True])
def test_an_input_may_be_left_unread(asked: bool) -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Unread(asked).eval(), (torch.randn(2, 3), torch.randn(2, 5)), check=True)
    proof = fxsparse.verify(network, network.shrink({"first": [0, 2]}))
    assert proof.max_error < 1e-9 < proof.effect


class Modulated(nn.Module):
    """A kernel of its own for each image, by a grouped convolution with the batch among the groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scales, self.last = nn.Conv2d(3, 8, 1), nn.Linear(5, 8), nn.Conv2d(6, 2, 1)
        self.weight = nn.Parameter(torch.randn(1, 6, 8, 3, 3))

    def forward(self, images: Tensor, style: Tensor) -> Tensor:
        x = self.first(images)
        batch, channels, height, width = x.shape
        weight = (self.weight * self.scales(style).view(batch, 1, channels, 1, 1)).view(batch * 6, channels, 3, 3)
        x = nn.functional.conv2d(x.view(1, batch * channels, height, width), weight, padding=1, groups=batch)
        out: Tensor = self.last(x.view(batch, 6, height, width))
        return out


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_is_no_part_of_the_channels(batch: int) -> None:
    network = fxsparse.trace(Modulated().eval(), (torch.randn(batch, 3, 4, 4), torch.randn(batch, 5)), check=True)
    groups = [group for group in network.groups if group.prunable]
    assert {group.size for group in groups} == {8, 6}
    small = network.shrink({group.name: group.units[::2] for group in groups})
    for other in (1, 2, 3):
        proof = fxsparse.verify(network, small, inputs=(torch.randn(other, 3, 4, 4), torch.randn(other, 5)))
        assert proof.max_error < 1e-9 < proof.effect
