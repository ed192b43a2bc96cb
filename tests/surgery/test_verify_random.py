"""The proof of networks that draw random numbers when they run: variational autoencoders, dropout that stays on, noise."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse

verify_module = importlib.import_module("fxsparse.surgery.verify")
Function = Callable[[Tensor], Tensor]


class Variational(nn.Module):
    def __init__(self, distribution: bool) -> None:
        super().__init__()
        self.first, self.mean, self.spread = nn.Linear(20, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.second, self.last = nn.Linear(16, 24), nn.Linear(24, 20)
        self.distribution = distribution

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.first(x))
        mean, deviation = self.mean(hidden), torch.exp(0.5 * self.spread(hidden))
        draw = torch.distributions.Normal(mean, deviation).rsample
        z = draw() if self.distribution else mean + torch.randn_like(deviation) * deviation
        return self.last(torch.relu(self.second(z))), (mean.square() + deviation).sum(1)


class Between(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(8, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.second(self.function(torch.relu(self.first(x)))))
        out: Tensor = self.last(y.mean((2, 3)))
        return out


FUNCTIONS: dict[str, Function] = {
    "dropout": lambda y: F.dropout(y, 0.5, True),
    "dropout of channels": lambda y: F.dropout2d(y, 0.5, True),
    "alpha dropout": lambda y: F.alpha_dropout(y, 0.5, True),
    "noise": lambda y: y + torch.rand_like(y),
    "bernoulli": lambda y: y * torch.bernoulli(torch.sigmoid(y)),
    "bernoulli, in place": lambda y: y * torch.empty_like(y).bernoulli_(0.3),
    "normal around it": lambda y: torch.normal(y, 0.1),
    "exponential": lambda y: y * torch.empty_like(y).exponential_(),
    "gumbel": lambda y: y * F.gumbel_softmax(y.flatten(2), dim=2).view_as(y),
}


def check(model: nn.Module, x: Tensor, groups: int) -> fxsparse.Proof:
    network = fxsparse.trace(model.eval(), x)
    assert network.origin.islands == ("",)
    prunable = [group for group in network.groups if group.prunable]
    assert len(prunable) == groups
    return fxsparse.verify(network, network.shrink({group.name: list(group.units)[::2] for group in prunable}))


@pytest.mark.parametrize("distribution", [False, True])
def test_variational_autoencoders(distribution: bool) -> None:
    torch.manual_seed(0)
    proof = check(Variational(distribution), torch.randn(4, 20), 3)
    assert proof.max_error < 1e-9 < proof.effect


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_drawn_in_eval_mode(name: str) -> None:
    torch.manual_seed(0)
    proof = check(Between(FUNCTIONS[name]), torch.randn(2, 3, 12, 12), 2)
    assert proof.max_error < 1e-9 < proof.effect


def test_an_error_behind_a_draw_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """If draws were all zero, whatever scales them could go wrong without being noticed."""
    torch.manual_seed(0)
    network = fxsparse.trace(Variational(False).eval(), torch.randn(4, 20))
    name = next(g.name for g in network.groups if any(m.tensor == "spread.weight" and m.axis == 0 for m in g.members))
    small = network.shrink({name: [0, 3, 4, 9]})
    real = verify_module._cut

    def swapped(*args: Any) -> dict[str, Tensor]:
        state: dict[str, Tensor] = real(*args)
        state["spread.weight"] = state["spread.weight"].flip(0)
        return state

    monkeypatch.setattr(verify_module, "_cut", swapped)
    with pytest.raises(fxsparse.VerificationError, match="differs from the reference"):
        fxsparse.verify(network, small)


def test_validation_of_distributions_is_as_before() -> None:
    before = torch.distributions.Distribution._validate_args
    fxsparse.trace(Variational(True).eval(), torch.randn(4, 20))
    assert torch.distributions.Distribution._validate_args is before


def test_nan_that_the_network_itself_makes_is_named() -> None:
    class Masked(nn.Module):
        """Rows whose places are all masked: softmax gives NaN, and the network takes it for zero."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            y = self.first(x)
            weights = torch.softmax((y @ y.mT).masked_fill(mask, -torch.inf), -1)
            out: Tensor = self.last(torch.where(weights.isnan(), torch.zeros_like(weights), weights) @ y)
            return out

    torch.manual_seed(0)
    mask = torch.zeros(2, 5, 5, dtype=torch.bool)
    network = fxsparse.trace(Masked().eval(), (torch.randn(2, 5, 6), mask))
    small = network.shrink({network.groups[0].name: [0, 2, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-9
    mask[0, 1] = True
    try:
        proof = fxsparse.verify(network, small, inputs=(torch.randn(2, 5, 6), mask))
    except fxsparse.VerificationError as error:
        assert "the original network makes NaN, first by aten::_softmax" in str(error)
    else:
        assert proof.max_error < 1e-9
