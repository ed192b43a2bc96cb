"""Autograd functions keep their own backward, whatever their forward looks like from outside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxsparse


class Straight(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Reversed(torch.autograd.Function):
    """Turns gradients around, in two outputs, and has a size of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float, width: int) -> tuple[Tensor, Tensor]:
        ctx.strength = strength
        y = x.view(-1, width)
        return y * 1, y.tanh()

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, None, None]:
        return -ctx.strength * (a + b), None, None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, z = Reversed.apply(self.b(Straight.apply(self.a(x))), 0.5, 5)  # type: ignore[no-untyped-call]
        out: Tensor = self.c(y + z)
        return out


def gradients(module: nn.Module, x: Tensor) -> list[Tensor | None]:
    module.zero_grad()
    module(x).square().sum().backward()
    return [parameter.grad for parameter in module.parameters()]


def test_gradients_are_those_of_the_backward() -> None:
    model, x = Model(), torch.randn(2, 4)
    network = fxsparse.trace(model, x)
    assert network.origin.islands == ("",)
    expected = [None if grad is None else grad.clone() for grad in gradients(model, x)]
    assert expected[0] is not None and bool(expected[0].abs().sum() > 0)
    for module in (network.module, copy.deepcopy(network.module), fxsparse.trace(nn.Sequential(network.module), x).module):
        torch.testing.assert_close(gradients(module, x), expected)


def test_a_size_that_a_function_is_given_follows_and_one_in_its_code_protects() -> None:
    network = fxsparse.trace(Model(), torch.randn(2, 4))
    assert network.group("a").prunable
    small = network.shrink({"a": range(4)})
    assert fxsparse.verify(network, small).effect > 0
    assert gradients(small.module, torch.randn(2, 4))[0] is not None
    assert not network.group("b").prunable and "does not follow" in network.group("b").reason


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_what_calls_a_function_is_traced_through_with_its_gradients() -> None:
    class Checkpointed(Model):
        def forward(self, x: Tensor) -> Tensor:
            y = checkpoint(lambda x: self.b(self.a(x).relu()), x, use_reentrant=True)
            out: Tensor = self.c(y)
            return out

    model, x = Checkpointed(), torch.randn(2, 4, requires_grad=True)
    network = fxsparse.trace(model, x)
    expected = [None if grad is None else grad.clone() for grad in gradients(model, x)]
    torch.testing.assert_close(gradients(network.module, x), expected)
    assert network.group("b").prunable
