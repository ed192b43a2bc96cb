"""Values that hide no error; copied into what a failing test prints."""

from __future__ import annotations

import torch
from torch import nn


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and statistics: no scale is zero, no statistic trivial, and activations stay of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        leaf = name.rpartition(".")[2]
        if not tensor.is_floating_point() or (not isinstance(tensor, nn.Parameter) and not leaf.startswith("running_")):
            continue
        value = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if "bias" in leaf or leaf == "running_mean":
            value *= 0.3
        elif tensor.numel() == max(tensor.shape, default=1):
            value = 0.6 + value.abs() / (1 + value.abs())  # a scale for each channel, or a variance
        else:
            value /= (tensor.numel() / tensor.shape[0]) ** 0.5
        tensor.data.copy_(value)
    for part in module.modules():
        if nn.utils.parametrize.is_parametrized(part, "weight"):  # the power iteration of a spectral norm follows its weight in train mode
            part.train()
            for _ in range(5):
                part.weight  # noqa: B018
            part.eval()
    return module.eval()
