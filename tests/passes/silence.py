"""Zeros in weights, as sparsity leaves them: single ones, whole rows, whole columns."""

from __future__ import annotations

import torch
from torch import nn


def silence(module: nn.Module, seed: int) -> nn.Module:
    """Sets most weights to zero, in place. One in three networks loses biases and scales as well."""
    generator = torch.Generator().manual_seed(seed)

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    share = (0.95, 0.7, 0.6)[seed % 3]
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() >= 2 or seed % 3 == 2:
                parameter[chance(*parameter.shape) < share] = 0
            if parameter.dim() >= 2:
                if chance(1) < 0.5:
                    parameter[chance(parameter.shape[0]) < 0.5] = 0
                if chance(1) < 0.3:
                    parameter[:, chance(parameter.shape[1]) < 0.5] = 0
    return module
