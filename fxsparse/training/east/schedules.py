"""The curves of EAST over the steps of a run."""

from __future__ import annotations

from dataclasses import dataclass

from fxsparse.errors import Error
from fxsparse.sparsity.schedules import Cosine, Linear, Schedule


@dataclass(frozen=True)
class Later:
    """0 before step `begin` and from `end` on, and between them what `curve` says.

    >>> Later(begin=10, curve=Linear(1.0, 0.5, end=20))(9)
    0.0
    >>> Later(begin=10, curve=Linear(1.0, 0.5, end=20))(10)
    0.75
    """

    begin: int
    curve: Schedule

    @property
    def end(self) -> int:
        return self.curve.end

    def __call__(self, step: int) -> float:
        return self.curve(step) if self.begin <= step < self.end else 0.0


def exchanged(first: float, last: float, begin: int, end: int) -> Later:
    """The share of weights that RigL exchanges: a cosine over the whole run, which counts when the cycles are over."""
    for name, value in (("fraction", first), ("least", last)):
        if not 0 <= value <= 1:
            raise Error(f"{name} is a share between 0 and 1, not {value!r}")
    return Later(begin, Cosine(first, last, end=end))


def fading(steps: int, begin: float = 0.25, end: float = 0.5) -> Linear:
    """The share of DyReLU that is left: 1 until the part `begin` of all steps, then in a straight line to 0 at the part `end`.

    >>> fading(100)(25), fading(100)(50)
    (1.0, 0.0)
    """
    if not 0 <= begin <= end <= 1:
        raise Error(f"DyReLU fades between two parts of the run, 0 <= begin <= end <= 1, not {begin} and {end}")
    return Linear(1.0, 0.0, begin=round(begin * steps), end=round(end * steps))
