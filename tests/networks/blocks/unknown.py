"""Operators that nobody has a rule for, though they look element-wise: same shape in and out, channels mixed."""

from __future__ import annotations

import torch
from torch import Tensor


def define_unknown_operators() -> None:
    """Registers them once; all random networks share them."""
    if hasattr(torch.ops.random_networks, "roll"):
        return

    @torch.library.custom_op("random_networks::roll", mutates_args=(), schema="(Tensor x) -> Tensor")
    def roll(x: Tensor) -> Tensor:
        return x.roll(1, 1)

    @torch.library.custom_op("random_networks::accumulate", mutates_args=(), schema="(Tensor x) -> Tensor")
    def accumulate(x: Tensor) -> Tensor:
        return x.cumsum(1) / x.shape[1]

    @torch.library.custom_op("random_networks::centre", mutates_args=(), schema="(Tensor x) -> Tensor")
    def centre(x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)

    @torch.library.custom_op("random_networks::blend", mutates_args=(), schema="(Tensor x, Tensor y) -> Tensor")
    def blend(x: Tensor, y: Tensor) -> Tensor:
        return x + y.roll(1, 1)

    @torch.library.custom_op("random_networks::halve", mutates_args=(), schema="(Tensor x) -> Tensor")
    def halve(x: Tensor) -> Tensor:
        return x * 0.5

    for operator in (roll, accumulate, centre, halve):
        operator.register_fake(lambda x: torch.empty_like(x))
    blend.register_fake(lambda x, y: torch.empty_like(x))
    roll.register_autograd(lambda context, grad: grad.roll(-1, 1))
    accumulate.register_autograd(lambda context, grad: grad.flip(1).cumsum(1).flip(1) / grad.shape[1])
    centre.register_autograd(lambda context, grad: grad - grad.mean(1, keepdim=True))
    blend.register_autograd(lambda context, grad: (grad, grad.roll(-1, 1)))
    halve.register_autograd(lambda context, grad: grad * 0.5)
