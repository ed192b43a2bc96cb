"""Which weights of a tensor stand or fall together, and what may be chosen among them.

A pattern pools the scores of a tensor into scores of its units, chooses units by count, and spreads the choice back over the weights.
Counts are exact: ties go to the unit that comes first, so that equal scores give equal masks on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fxsparse.errors import Error


class Pattern(Protocol):
    """How a mask may look."""

    @property
    def density(self) -> float | None:
        """The density, where the pattern itself fixes it."""

    def unit(self, name: str, shape: Sequence[int]) -> int:
        """Weights in one unit of a tensor of this shape; an error when the pattern does not fit it."""

    def pool(self, scores: Tensor) -> Tensor:
        """The mean score of each unit."""

    def spread(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        """What is said of units, said of weights."""

    def select(self, scores: Tensor, count: int) -> Tensor:
        """The `count` best units that may live together, from pooled scores."""


def top(scores: Tensor, count: int) -> Tensor:
    """True for exactly `count` of the highest scores; the first ones win ties.

    >>> top(torch.tensor([0.0, 2.0, 0.0, 0.0]), 2)
    tensor([ True,  True, False, False])
    """
    if not 0 <= count <= scores.numel():
        raise Error(f"{count} of {scores.numel()} cannot be chosen")
    if count == 0 or count == scores.numel():
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    flat = scores.reshape(-1)
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    if bool(flat.isnan().any()):
        raise Error("a score is not a number (nan), so nothing can be chosen by it; look for nan in the weights and gradients")
    least = flat.kthvalue(flat.numel() - count + 1).values
    chosen = flat > least
    ties = (flat == least).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.sum())]] = True
    return torch.empty_like(scores, dtype=torch.bool).copy_(chosen.view(scores.shape))


class Free:
    """Patterns of any density."""

    @property
    def density(self) -> float | None:
        return None


@dataclass(frozen=True)
class Unstructured(Free):
    """Every weight for itself."""

    def unit(self, name: str, shape: Sequence[int]) -> int:
        return 1

    def pool(self, scores: Tensor) -> Tensor:
        return scores

    def spread(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        return units

    def select(self, scores: Tensor, count: int) -> Tensor:
        return top(scores, count)

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True)
class NM(Unstructured):
    """`n` of every `m` weights that follow one another along the input channels, as in the sparse tensor cores' 2:4."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise Error(f"{self.n}:{self.m} is no pattern; N:M keeps N of M weights, 0 < N <= M")

    @property
    def density(self) -> float:
        return self.n / self.m

    def unit(self, name: str, shape: Sequence[int]) -> int:
        if len(shape) < 2 or shape[1] % self.m:
            raise Error(
                f"{name} of shape {tuple(shape)} cannot be {self.n}:{self.m}, as its input channels are no multiple of {self.m}; "
                f"leave it out with exclude=[{name!r}]"
            )
        return 1

    def select(self, scores: Tensor, count: int) -> Tensor:
        if count * self.m != scores.numel() * self.n:
            raise Error(f"{self.n}:{self.m} keeps {scores.numel() * self.n // self.m} of {scores.numel()} weights, not {count}")
        lines = scores.movedim(1, -1)
        groups = lines.reshape(-1, self.m)
        order = groups.argsort(dim=1, descending=True, stable=True)  # stable: the first ones win ties
        chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, : self.n], True)
        return torch.empty_like(scores, dtype=torch.bool).copy_(chosen.view(lines.shape).movedim(-1, 1))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True)
class Block(Free):
    """Blocks of `outputs` x `inputs` channels, at each position of the kernel."""

    outputs: int
    inputs: int

    def __post_init__(self) -> None:
        if self.outputs < 1 or self.inputs < 1:
            raise Error(f"a block of {self.outputs} x {self.inputs} channels is none; give whole numbers from 1 on")

    def unit(self, name: str, shape: Sequence[int]) -> int:
        if len(shape) < 2 or shape[0] % self.outputs or shape[1] % self.inputs:
            raise Error(
                f"{name} of shape {tuple(shape)} cannot be cut into blocks of {self.outputs} x {self.inputs} channels; "
                f"leave it out with exclude=[{name!r}]"
            )
        return self.outputs * self.inputs

    def pool(self, scores: Tensor) -> Tensor:
        out, into, *kernel = scores.shape
        grid = scores.reshape(out // self.outputs, self.outputs, into // self.inputs, self.inputs, *kernel)
        return grid.to(torch.promote_types(grid.dtype, torch.float32)).mean((1, 3))

    def spread(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        return units.repeat_interleave(self.outputs, 0).repeat_interleave(self.inputs, 1)

    def select(self, scores: Tensor, count: int) -> Tensor:
        return top(scores, count)

    def __str__(self) -> str:
        return f"block:{self.outputs}x{self.inputs}"


@dataclass(frozen=True)
class Channel(Free):
    """Whole output channels of one layer. The tensors keep their shapes; coupled layers are the business of `fxsparse.passes`."""

    def unit(self, name: str, shape: Sequence[int]) -> int:
        return math.prod(shape[1:])

    def pool(self, scores: Tensor) -> Tensor:
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).flatten(1).mean(1)

    def spread(self, units: Tensor, shape: Sequence[int]) -> Tensor:
        return units.view(-1, *[1] * (len(shape) - 1)).expand(*shape)

    def select(self, scores: Tensor, count: int) -> Tensor:
        return top(scores, count)

    def __str__(self) -> str:
        return "channel"


def as_pattern(pattern: str | Pattern) -> Pattern:
    """A pattern from its text (`unstructured`, `2:4`, `block:4x4`, `channel`), or itself. `str` gives the text back.

    >>> as_pattern("2:4")
    NM(n=2, m=4)
    """
    if not isinstance(pattern, str):
        return pattern
    if pattern in ("unstructured", "channel"):
        return Unstructured() if pattern == "unstructured" else Channel()
    if numbers := re.fullmatch(r"(\d+):(\d+)", pattern):
        return NM(int(numbers[1]), int(numbers[2]))
    if numbers := re.fullmatch(r"block:(\d+)x(\d+)", pattern):
        return Block(int(numbers[1]), int(numbers[2]))
    raise Error(f"{pattern!r} is no pattern; write unstructured, 2:4, block:4x4 or channel")
