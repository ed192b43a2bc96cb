"""Norms of groups over a stream, and over the stream beside another one, where groups begin elsewhere: the U-Nets of diffusion."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Stream(nn.Module):
    def __init__(self, wide: int, narrow: int, groups: int) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, narrow, 3, padding=1), nn.GroupNorm(groups, narrow)
        self.down, self.second = nn.Conv2d(narrow, wide, 3, padding=1), nn.GroupNorm(groups, wide)
        self.block, self.third = nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(groups, wide + narrow)
        self.up, self.skip = nn.Conv2d(wide + narrow, narrow, 3, padding=1), nn.Conv2d(wide + narrow, narrow, 1)
        self.out = nn.Conv2d(narrow, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(self.first(x).relu())
        y = y + self.block(self.second(y).relu())
        both = torch.cat([y, x], 1)
        out: Tensor = self.out(self.up(self.third(both).relu()) + self.skip(both))
        return out


@pytest.mark.parametrize(("wide", "narrow", "groups", "units"), [(16, 8, 4, 2), (64, 32, 8, 4), (40, 20, 4, 5), (18, 6, 2, 3)])
def test_what_has_the_same_place_in_all_groups_may_go(wide: int, narrow: int, groups: int, units: int) -> None:
    network = fxsparse.trace(Stream(wide, narrow, groups).eval(), torch.randn(2, 3, 6, 6))
    stream = {group.name: group.size for group in network.groups if group.prunable}
    assert stream == {"stem/group_channels": units, "up": narrow}
    chance = random.Random(0)
    keep = sorted(chance.sample(range(units), units - 1))
    small = network.shrink({"stem/group_channels": keep, "up": range(narrow - 2)})
    assert small.module.get_parameter("down.weight").shape[0] == wide // units * (units - 1)
    assert fxsparse.verify(network, small).max_error <= 1e-9
    again, before = small.regrow().module.state_dict(), network.module.state_dict()
    assert all(torch.equal(again[key], before[key]) for key in before)


def test_where_no_place_is_the_same_the_stream_stays() -> None:
    network = fxsparse.trace(Stream(12, 8, 4).eval(), torch.randn(2, 3, 6, 6))
    groups = {group.name: group for group in network.groups}
    assert groups["stem/group_channels"].reason == "a single unit, which must stay"
    assert [name for name, group in groups.items() if group.prunable] == ["up"]
    with pytest.raises(fxsparse.PlanError, match="keep at least one"):
        network.shrink({"stem/group_channels": []})
