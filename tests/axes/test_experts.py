"""Mixtures of experts: rows that are dealt out among matrices by a grouped product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse


class Experts(nn.Module):
    """Each token goes to its best two of four experts, gated, as current language models do it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.router, self.out = nn.Linear(6, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, 3)
        self.gate_up, self.down = nn.Parameter(torch.randn(4, 16, 32) / 4), nn.Parameter(torch.randn(4, 16, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.into(x)
        weights, chosen = self.router(tokens).softmax(-1).topk(2)
        expert, order = chosen.reshape(-1).sort()
        ends = torch.histc(expert.float(), bins=4, min=0, max=3).cumsum(0).int()
        gate, up = F.grouped_mm(tokens[order // 2], self.gate_up, offs=ends).chunk(2, -1)
        made = F.grouped_mm(F.silu(gate) * up, self.down, offs=ends) * weights.reshape(-1)[order].unsqueeze(-1)
        mixed = torch.zeros_like(tokens).index_add(0, order // 2, made)
        result: Tensor = self.out(tokens + mixed)
        return result


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch has no grouped product yet")
def test_experts_lose_inner_and_outer_channels_and_stay_apart() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Experts().eval(), torch.randn(5, 6), check=True)
    inner = next(group for group in network.groups if any(m.tensor == "down" and m.axis == 1 for m in group.members))
    outer = next(group for group in network.groups if any(m.tensor == "down" and m.axis == 2 for m in group.members))
    assert inner.prunable and inner.size == 16 and outer.prunable and outer.size == 16
    assert {("gate_up", 2), ("down", 1)} == {(m.tensor, m.axis) for m in inner.members}
    small = network.shrink({inner.name: range(0, 16, 2), outer.name: range(8)})
    assert small.module.get_parameter("gate_up").shape == (4, 8, 16)
    assert fxsparse.verify(network, small).max_error < 1e-9
    small.module.train()(torch.randn(5, 6)).sum().backward()
    assert small.module.get_parameter("down").grad is not None
    assert torch.isfinite(small(torch.randn(7, 6))).all()
    with pytest.raises(fxsparse.PlanError, match="a multiple of 4"):
        network.shrink({outer.name: range(7)})
    half = fxsparse.passes.Prune(parameters=0.5, align=4)(network).network
    assert torch.isfinite(half(torch.randn(7, 6))).all()
    apart = [group for group in network.groups if any(m.tensor == "down" and m.axis == 0 for m in group.members)]
    assert apart and not any(group.prunable for group in apart)
