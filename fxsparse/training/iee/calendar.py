"""Which stage of which cycle a step belongs to: a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fxsparse.errors import Error

Stage = Literal["estimate", "exploit", "explore"]


@dataclass(frozen=True)
class Calendar:
    """`cycles` cycles of `length` steps; then one that only estimates, prunes to the final budget, and trains to the end.

    A cycle is `estimate` steps, the prune, the exploitation, `explore` steps, the growth. The first step is 1.

    >>> calendar = Calendar(steps=100, cycles=2, length=30, estimate=5, explore=10)
    >>> [calendar.stage(step) for step in (1, 6, 21, 31, 70)]
    ['estimate', 'exploit', 'explore', 'estimate', 'exploit']
    """

    steps: int
    cycles: int
    length: int
    estimate: int
    explore: int

    def __post_init__(self) -> None:
        if self.estimate < 1 or self.explore < 0 or self.cycles < 0:
            raise Error(
                f"{self.cycles} cycles with {self.estimate} steps of estimation and {self.explore} of exploration are no schedule; "
                "estimation takes at least 1 step, the others at least 0"
            )
        if self.cycles and self.estimate + self.explore >= self.length:
            raise Error(
                f"a cycle of {self.length} steps has no room for {self.estimate} of estimation, {self.explore} of exploration and "
                "exploitation between them; give fewer cycles, or shorter ones of these"
            )
        if self.last_prune > self.steps:
            raise Error(
                f"the last prune would be after step {self.last_prune} of {self.steps}; give fewer cycles, a shorter estimation, "
                "or an earlier stop"
            )

    @property
    def last_prune(self) -> int:
        """The step after which the budget is the final one for good."""
        return self.cycles * self.length + self.estimate

    def cycle(self, step: int) -> int:
        """The number of the step's cycle, from 0 on; the last is `cycles`."""
        return min(max(0, step - 1) // self.length, self.cycles) if self.cycles else 0

    def stage(self, step: int) -> Stage:
        place, last = self._place(step)
        if place <= self.estimate:
            return "estimate"
        return "exploit" if last or place <= self.length - self.explore else "explore"

    def prunes(self, step: int) -> bool:
        """Whether the network is pruned after this step."""
        return self._place(step)[0] == self.estimate

    def grows(self, step: int) -> bool:
        """Whether it grows after this step."""
        place, last = self._place(step)
        return not last and place == self.length

    def enters(self, step: int) -> bool:
        """Whether the exploration begins after this step."""
        return self.stage(step + 1) == "explore" and (step == 0 or self.stage(step) != "explore")

    def spans(self) -> Iterator[tuple[Stage, int, int]]:
        """(stage, first step, last step) of the whole run."""
        first = 1
        for step in range(2, self.steps + 2):
            if step > self.steps or (self.stage(step), self.cycle(step)) != (self.stage(first), self.cycle(first)):
                yield self.stage(first), first, step - 1
                first = step

    def _place(self, step: int) -> tuple[int, bool]:
        """The step's number within its cycle, and whether that cycle is the last."""
        cycle = self.cycle(step)
        return step - cycle * self.length, cycle == self.cycles


def calendar_of(steps: int, *, cycles: int | None, stop: float, estimate: int, explore: int, most: int = 10) -> Calendar:
    """The calendar whose cycles end at the part `stop` of all steps. Without `cycles`: as many as leave half of each to
    exploitation, up to `most`; in a run that is too short for one, estimation and exploration are shorter."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise Error(f"steps is the number of optimizer steps of the whole run, not {steps!r}")
    if not 0 <= stop <= 1:
        raise Error(f"stop is the part of the run in which cycles are, between 0 and 1, not {stop!r}")
    room = round(stop * steps)
    if cycles is None:
        estimate = max(1, min(estimate, steps // 4))
        room = min(room, steps - estimate)  # the last cycle estimates as well
        if room < 2 * (estimate + explore):  # a run too short for one such cycle: shorter stages, and if need be no cycle at all
            part = room / (2 * (estimate + explore))
            estimate, explore = max(1, int(part * estimate)), min(explore, max(1, int(part * explore)))
        cycles = min(most, room // (2 * (estimate + explore)))
    return Calendar(steps, cycles, room // cycles if cycles else 1, estimate, explore)
