"""Numbers that change over the steps of a training run: densities, fractions, learning rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fxsparse.errors import Error


@runtime_checkable
class Schedule(Protocol):
    """A value for every step; from step `end` on it does not change any more."""

    @property
    def end(self) -> int: ...

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """Always the same."""

    value: float
    end: int = 0

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class _Ramp:
    """From `first` at step `begin` to `last` at step `end`."""

    first: float
    last: float
    end: int
    begin: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise Error(f"a schedule goes from step {self.begin} to step {self.end}; give 0 <= begin <= end")

    def __call__(self, step: int) -> float:
        if step >= self.end:
            return self.last
        return self.last + (self.first - self.last) * self.left(max(0, step - self.begin) / (self.end - self.begin))

    def left(self, progress: float) -> float:
        """How much of the way is left: 1 at progress 0, 0 at progress 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(_Ramp):
    """In a straight line.

    >>> Linear(1.0, 0.0, end=10)(5)
    0.5
    """

    def left(self, progress: float) -> float:
        return 1 - progress


@dataclass(frozen=True)
class Cosine(_Ramp):
    """Half a cosine: slow at both ends."""

    def left(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Cubic(_Ramp):
    """Fast at first and slow at the end, as in gradual magnitude pruning (Zhu and Gupta, 2017)."""

    def left(self, progress: float) -> float:
        return float((1 - progress) ** 3)


@dataclass(frozen=True)
class Cyclic:
    """Up from `low` to `high` and down again, `cycles` times in `period` steps each; then `low` for ever."""

    low: float
    high: float
    period: int
    cycles: int = 1
    shape: Literal["cosine", "triangle"] = "cosine"

    def __post_init__(self) -> None:
        if self.period < 1 or self.cycles < 1:
            raise Error(f"a cycle of {self.period} steps, {self.cycles} times, is no schedule; give whole numbers from 1 on")
        if self.shape not in ("cosine", "triangle"):
            raise Error(f"a cycle has the shape cosine or triangle, not {self.shape!r}")

    @property
    def end(self) -> int:
        return self.period * self.cycles

    def __call__(self, step: int) -> float:
        if step >= self.end:
            return self.low
        place = step % self.period / self.period
        risen = (1 - math.cos(2 * math.pi * place)) / 2 if self.shape == "cosine" else 1 - abs(2 * place - 1)
        return self.low + (self.high - self.low) * risen


def as_schedule(value: float | Schedule) -> Schedule:
    """A plain number is constant."""
    return value if isinstance(value, Schedule) else Constant(float(value))
