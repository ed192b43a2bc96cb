"""What resting weights are when they wake."""

from __future__ import annotations

import torch
from torch import Tensor

from fxsparse.training.iee.settings import Settings


def woken(settings: Settings, value: Tensor, mask: Tensor, rest: Tensor, chance: torch.Generator) -> Tensor:
    """The values of a tensor's resting weights, zero where weights live: as they are remembered, zero, or random of the size that the
    living ones have."""
    if settings.value == "zero":
        return torch.zeros_like(rest)
    if settings.value == "random":
        living = value[mask].float()
        size = living.square().mean().sqrt() if living.numel() else value.new_ones((), dtype=torch.float32)
        drawn = torch.randn(rest.shape, generator=chance).to(size) * size
        rest = torch.where(mask, torch.zeros_like(rest), drawn.to(rest))
    return rest * settings.scale if settings.scale != 1.0 else rest
