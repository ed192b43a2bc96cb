"""Widths for a budget: the worst units by importance for what they cost go first, costs being those of the widths reached so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fxsparse.budgets.meter import Widths
from fxsparse.errors import BudgetError

Scope = Literal["global", "local", "isomorphic"]
STAGES = 12  # how often costs are looked at again on the way
FULL, NEAR = 0.999, 0.99  # of the target: where there is nothing more to do, and what counts as reached


@dataclass(frozen=True)
class Limits:
    """How narrow each group may become, and in which steps."""

    least: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

    def levels(self, name: str, width: int) -> npt.NDArray[np.int64]:
        """The widths that a group may have, ascending; the one that it has is always one of them."""
        least = max(1, min(self.least.get(name, 1), width))
        step = self.steps.get(name, 1)
        levels = np.arange(step, width, step)
        return np.append(levels[levels >= least], width)


@dataclass(frozen=True)
class Search:
    """What is searched: the measure of widths, the groups that may change with their scores, and the target."""

    measure: Callable[[Widths], float]
    start: Widths
    groups: Mapping[int, npt.NDArray[np.float64]]  # position of a group -> scores of its living units
    names: Sequence[str]
    target: float
    limits: Limits = field(default_factory=Limits)
    scope: Scope = "global"
    classes: Mapping[int, object] = field(default_factory=dict)  # position -> what groups must share to be ranked together


class Walk:
    """Widths on their way down."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.positions = list(search.groups)
        self.levels = {p: search.limits.levels(search.names[p], int(search.start[p])) for p in self.positions}
        self.ranked = {p: np.sort(search.groups[p])[::-1] for p in self.positions}  # best first
        self.widths = search.start.copy()

    def floor(self) -> Widths:
        widths = self.search.start.copy()
        for p in self.positions:
            widths[p] = self.levels[p][0]
        return widths

    def costs(self) -> dict[int, float]:
        """What one unit of each group saves now; at least a little, so that nothing is divided by zero."""
        now = self.search.measure(self.widths)
        found = {}
        for p in self.positions:
            fewer = self.widths.copy()
            fewer[p] = max(1.0, fewer[p] - 1)
            found[p] = max((now - self.search.measure(fewer)) / max(self.widths[p] - fewer[p], 1.0), 0.0)
        usual = np.median([c for c in found.values() if c > 0]) if any(found.values()) else 1.0
        return {p: max(c, 1e-6 * float(usual)) for p, c in found.items()}

    def at(self, threshold: float, merit: Mapping[int, npt.NDArray[np.float64]]) -> Widths:
        """Widths when every unit goes whose merit is below the threshold; no group grows again."""
        widths = self.search.start.copy()
        for p in self.positions:
            keep = int(np.searchsorted(-merit[p], -threshold, side="right"))
            widths[p] = self.nearest(p, keep, self.widths[p])
        return widths

    def nearest(self, p: int, keep: float, most: float) -> float:
        """The allowed width nearest to `keep`."""
        levels = self.levels[p][self.levels[p] <= most]
        return float(levels[np.abs(levels - keep).argmin()])

    def merits(self) -> dict[int, npt.NDArray[np.float64]]:
        """For each unit, best first, how much it is worth for what it costs."""
        if self.search.scope == "local":
            return {p: 1.0 - (np.arange(len(s)) + 0.5) / len(s) for p, s in self.ranked.items()}
        if self.search.scope == "isomorphic":
            return self._ranks_in_classes()
        costs = self.costs()
        return {p: np.minimum.accumulate(scores / costs[p]) for p, scores in self.ranked.items()}

    def _ranks_in_classes(self) -> dict[int, npt.NDArray[np.float64]]:
        merits: dict[int, npt.NDArray[np.float64]] = {}
        for kind in {self.search.classes.get(p) for p in self.positions}:
            mine = [p for p in self.positions if self.search.classes.get(p) == kind]
            scaled = {p: self.ranked[p] * len(self.ranked[p]) for p in mine}  # against what the average unit of the group would have
            pool = np.sort(np.concatenate(list(scaled.values())))
            for p in mine:
                merits[p] = (np.searchsorted(pool, scaled[p], side="right") - 0.5) / len(pool)
        return merits

    def descend(self, target: float) -> None:
        """Lower the threshold's widths until the measure is at the target or just above it."""
        merit = self.merits()
        every = np.unique(np.concatenate([m for m in merit.values()]))
        low, high = -1, len(every) - 1  # keeping all, and keeping none but the least
        best = self.widths
        while high - low > 1:
            middle = (low + high) // 2
            widths = self.at(every[middle], merit)
            if self.search.measure(widths) >= target:
                low, best = middle, widths
            else:
                high = middle
        self.widths = best

    def trim(self) -> None:
        """One step at a time below the target, by the worst merit; then back up with what still fits."""
        self._step_down()
        self._fill_up()

    def _step_down(self) -> None:
        measure, target = self.search.measure, self.search.target
        while measure(self.widths) > target:
            costs = self.costs() if self.search.scope == "global" else dict.fromkeys(self.positions, 1.0)
            options = []
            for p in self.positions:
                lower = self.levels[p][self.levels[p] < self.widths[p]]
                if len(lower):
                    loss = self.ranked[p][int(lower[-1]) : int(self.widths[p])].mean() / costs[p]
                    options.append((self._order(p, float(loss)), p, float(lower[-1])))
            if not options:
                return
            _, p, width = min(options)
            self.widths[p] = width

    def _order(self, p: int, loss: float) -> float:
        """Locally, the group that has kept the largest share goes first."""
        return -self.widths[p] / self.search.start[p] if self.search.scope == "local" else loss

    def _fill_up(self) -> None:
        """What is left of the budget goes to the groups that can use it: to the best first, and to whom it fits."""
        measure, target = self.search.measure, self.search.target
        closed: set[int] = set()
        while measure(self.widths) < FULL * target:
            options = []
            for p in self.positions:
                higher = self.levels[p][self.levels[p] > self.widths[p]]
                if len(higher) and p not in closed:
                    gain = self.ranked[p][int(self.widths[p]) : int(higher[0])].mean()
                    options.append((-gain if self.search.scope == "global" else self.widths[p] / self.search.start[p], p, float(higher[0])))
            if not options:
                break
            _, p, width = min(options)
            before = self.widths[p]
            self.widths[p] = width
            if measure(self.widths) > target:
                self.widths[p] = before
                closed.add(p)
        if measure(self.widths) < NEAR * target:
            self._exchange()

    def _exchange(self) -> None:
        """Where whole steps are coarse: one step less of one group for steps more of another, when that comes nearer to the target."""
        measure, target = self.search.measure, self.search.target
        best, widths = measure(self.widths), self.widths
        for p in self.positions:
            lower = self.levels[p][self.levels[p] < self.widths[p]]
            for q in self.positions if len(lower) else []:
                tried = self.widths.copy()
                tried[p] = lower[-1]
                for level in self.levels[q][self.levels[q] > self.widths[q]][:8].tolist() if q != p else []:
                    tried[q] = level
                    if best < (reached := measure(tried)) <= target:
                        best, widths = reached, tried.copy()
            if best >= NEAR * target:
                break
        self.widths = widths


def widths_for(search: Search) -> Widths:
    """Widths whose measure is at most the target, and as near to it as whole steps allow."""
    walk = Walk(search)
    now, least = search.measure(search.start), search.measure(walk.floor())
    if search.target >= now:
        return search.start
    if least > search.target:
        raise BudgetError(f"at its narrowest the network still costs {least:,.0f}, and {search.target:,.0f} is asked for")
    if search.target > 0.999 * now:
        walk.trim()
        return walk.widths
    for stage in range(1, STAGES + 1):
        walk.descend(now * (search.target / now) ** (stage / STAGES) if search.target > 0 else search.target)
    walk.trim()
    return walk.widths
