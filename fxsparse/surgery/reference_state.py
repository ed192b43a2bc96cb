"""Random values for a proof: none of a network's own values may hide a difference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

# What rectifiers take away, about; without it the early layers of a deep network can hardly be seen in its outputs.
GAIN = 1.25


def randomised_state(module: nn.Module, seed: int, gain: float = GAIN) -> dict[str, Tensor]:
    """Random float64 values for every parameter and every statistic of a norm: zero-initialised scales and fresh statistics hide errors.

    Weights are scaled by `gain` and their fan-in, so that deep networks stay finite. Other buffers (index tables, periods, anchors) keep
    their values. Tensors that have two names stay one tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}

    def put(key: str, tensor: Tensor, value: Callable[[str, Tensor, torch.Generator], Tensor]) -> None:
        if id(tensor) not in made:
            made[id(tensor)] = value(key, tensor, generator)
        state[key] = made[id(tensor)]

    for key, parameter in module.named_parameters(remove_duplicate=False):
        put(key, parameter, partial(_random_parameter, gain))
    for key, buffer in module.named_buffers(remove_duplicate=False):
        put(key, buffer, _random_buffer)
    return state


def _random_parameter(gain: float, key: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    if parameter.is_complex():
        return torch.complex(*(_random_parameter(gain, key, part, generator) for part in (parameter.real, parameter.imag)))
    if not parameter.is_floating_point():
        return _own(parameter)
    name = key.rpartition(".")[2]
    if name.startswith("bias") or name.endswith("bias"):  # recurrent layers have bias_ih_l0, attention in_proj_bias
        return _normal(parameter, 0.1, generator)
    fan_in = parameter[0].numel() if parameter.dim() > 1 and len(parameter) else 1
    return _normal(parameter, gain * fan_in**-0.5, generator) if fan_in > 1 else _uniform(parameter, generator)


def _random_buffer(key: str, buffer: Tensor, generator: torch.Generator) -> Tensor:
    name = key.rpartition(".")[2]
    if name == "running_var":
        return _uniform(buffer, generator)
    return _normal(buffer, 0.1, generator) if name == "running_mean" else _own(buffer)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5


def _normal(like: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64) * scale


def _own(tensor: Tensor) -> Tensor:
    value = tensor.detach().cpu().clone()
    return value.double() if value.is_floating_point() else value
