"""Learning rates as functions of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxsparse.errors import Error
from fxsparse.sparsity.schedules import Cosine

SCHEDULES = ("cosine", "multistep", "onecycle", "constant")


@dataclass(frozen=True)
class Rate:
    """The factor of the base learning rate at each of `steps` steps.

    A linear warm-up over `warmup` steps, then: half a cosine to 0; or times `gamma` at each of the `milestones` (parts of the run); or one
    cycle, up to the base rate in the first 30 % from a 25th of it and down to nearly 0 (Smith, 2018); or nothing.
    """

    kind: str
    steps: int
    warmup: int = 0
    milestones: Sequence[float] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise Error(f"there is no learning-rate schedule {self.kind!r}; choose {', '.join(SCHEDULES)}")
        if not 0 <= self.warmup <= self.steps:
            raise Error(f"a warm-up of {self.warmup} steps does not fit into {self.steps} steps")

    def __call__(self, step: int) -> float:
        """The factor of the step; the first step is 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "cosine":
            return Cosine(1.0, 0.0, begin=self.warmup, end=self.steps)(step)
        if self.kind == "multistep":
            return float(self.gamma ** sum(step >= part * self.steps for part in self.milestones))
        if self.kind == "onecycle":
            peak = round(0.3 * self.steps)
            up, down = Cosine(1 / 25, 1.0, begin=0, end=peak), Cosine(1.0, 1e-4 / 25, begin=peak, end=self.steps)
            return up(step) if step < peak else down(step)
        return 1.0
