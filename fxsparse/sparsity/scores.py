"""What a single weight is worth. A score is any function from a `Weight` to a tensor of its shape; more is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxsparse.errors import Error


@dataclass(frozen=True, eq=False)
class Weight:
    """What a score may look at: one tensor of weights, with the gradient of the dense tensor, and seeded chance."""

    name: str
    value: Tensor
    mask: Tensor | None
    grad: Tensor | None
    seed: int

    @property
    def gradient(self) -> Tensor:
        """The gradient, masked weights included."""
        if self.grad is None:
            raise Error(f"{self.name} has no gradient to score it by; call backward() first, or choose a score without gradients")
        return self.grad

    def chance(self) -> Tensor:
        """Uniform random numbers: the same on every device and every rank of a distributed run."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.value.shape, generator=generator).to(self.value.device)


Score = Callable[[Weight], Tensor]


def magnitude(weight: Weight) -> Tensor:
    """|w|"""
    return weight.value.abs()


def gradient(weight: Weight) -> Tensor:
    """|dL/dw|"""
    return weight.gradient.abs()


def taylor(weight: Weight) -> Tensor:
    """|w dL/dw|: the change of the loss, to first order, when the weight goes."""
    return (weight.value * weight.gradient).abs()


def squared_taylor(weight: Weight) -> Tensor:
    """(w dL/dw)^2"""
    return (weight.value * weight.gradient).square()


def random(weight: Weight) -> Tensor:
    """Chance alone."""
    return weight.chance()


SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "taylor": taylor,
    "squared-taylor": squared_taylor,
    "random": random,
}


def as_score(score: str | Score) -> Score:
    """A score by its name, or itself."""
    if callable(score):
        return score
    if score not in SCORES:
        raise Error(f"there is no score {score!r}; choose {', '.join(SCORES)}, or give a function of a Weight")
    return SCORES[score]


def reads_gradient(score: Score) -> bool:
    """Whether the score may ask for the gradient. Of a function that we do not know, we think so."""
    return score not in (magnitude, random)


class Mean:
    """The mean of a score over several steps. Call `add` once a step, after backward(); it is then a score itself.

    >>> worth = Mean(taylor)
    """

    def __init__(self, score: str | Score) -> None:
        self.score = as_score(score)
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}

    def add(self, weight: Weight) -> None:
        with torch.no_grad():
            self.take(weight.name, self.score(weight).detach())

    def take(self, name: str, scores: Tensor) -> None:
        """One step's scores of a tensor."""
        with torch.no_grad():
            wide = torch.promote_types(scores.dtype, torch.float32)  # a sum in half precision would make ties of what differs
            self.sums[name] = self.sums[name].add_(scores) if name in self.sums else scores.to(wide, copy=True)
        self.steps[name] = self.steps.get(name, 0) + 1

    def clear(self) -> None:
        self.sums.clear()
        self.steps.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "steps": dict(self.steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.steps = {name: tensor.clone() for name, tensor in state["sums"].items()}, dict(state["steps"])

    def __call__(self, weight: Weight) -> Tensor:
        if weight.name not in self.sums:
            raise Error(f"no step was added to the mean score of {weight.name}; call add() after backward()")
        return self.sums[weight.name] / self.steps[weight.name]
