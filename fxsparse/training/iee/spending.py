"""What the living units may cost, and which of them are kept for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from fxsparse.budgets.meter import Meter
from fxsparse.channels.groups import Structure
from fxsparse.errors import BudgetError
from fxsparse.network import Network

Living = dict[str, tuple[int, ...]]
STAGES = 8  # how often costs are looked at again on the way down: what a unit costs depends on the widths of the others
MORE = 32  # how many units that come next are tried for what is left of the budget


class Spending(Protocol):
    """A cost that does not rise when a unit goes."""

    def __call__(self, network: Network, living: Mapping[str, tuple[int, ...]]) -> float:
        """What the network would cost if just these units lived."""


class Counted:
    """Units, multiply-accumulates or parameters."""

    def __init__(self, what: Literal["units", "macs", "parameters"]) -> None:
        self.what = what
        self._known: tuple[Structure, Meter] | None = None

    def __call__(self, network: Network, living: Mapping[str, tuple[int, ...]]) -> float:
        structure = network.origin.structure
        if self._known is None or self._known[0] is not structure:
            self._known = (structure, Meter(structure, self.what))
        meter = self._known[1]
        return round(meter(meter.widths(living)), 3)


def best_within(network: Network, worth: Mapping[str, Tensor], spending: Spending, limit: float, least: int = 1) -> Living:
    """The units of greatest worth for what they cost, in one ranking over all groups, that together cost no more than `limit`.

    A worth of infinity is kept in any case, and one of -infinity never; groups without worth stay as they are, and every other group
    keeps at least `least` units.
    """
    choice = _Choice(network, worth, spending, least)
    first = spending(network, choice.most)
    if spending(network, choice.sure) > limit:
        raise BudgetError(
            f"the budget of {limit:,.6g} cannot be reached: what must stay costs {spending(network, choice.sure):,.6g} already"
        )
    if first <= limit:
        return choice.most
    kept = choice.most
    for stage in range(1, STAGES + 1):
        kept = choice.within(first * (limit / first) ** (stage / STAGES), kept)
    return choice.filled(limit, kept)


class _Choice:
    def __init__(self, network: Network, worth: Mapping[str, Tensor], spending: Spending, least: int) -> None:
        self.network, self.spending = network, spending
        self.worth = {name: scores.double().numpy() for name, scores in worth.items()}
        self.order = {name: np.argsort(-scores, kind="stable") for name, scores in self.worth.items()}
        self.most: Living = dict(network.living)
        self.sure: Living = dict(network.living)
        for name, order in self.order.items():
            possible = [int(unit) for unit in order if self.worth[name][unit] > -np.inf]
            self.most[name] = tuple(sorted(possible))
            self.sure[name] = tuple(sorted(u for at, u in enumerate(possible) if at < least or self.worth[name][u] == np.inf))

    def within(self, limit: float, most: Living) -> Living:
        """Of the units in `most`, the longest beginning of the ranking that costs no more than `limit`."""
        ranking = self.ranking(most)
        low, high = 0, len(ranking)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.spending(self.network, self.plus(self.sure, ranking[:middle])) <= limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return self.plus(self.sure, ranking[:low])

    def filled(self, limit: float, kept: Living) -> Living:
        """What comes next may be cheaper than the first that did not fit."""
        left = {name: tuple(sorted({*self.most[name]} - {*kept[name]})) for name in self.order}
        for entry in self.ranking({**kept, **left})[:MORE]:
            more = self.plus(kept, [entry])
            kept = more if self.spending(self.network, more) <= limit else kept
        return kept

    def ranking(self, living: Living) -> list[tuple[str, int]]:
        """(group, unit), the best first: worth over cost; no unit before a better one of its group."""
        entries: list[tuple[float, int, int, str, int]] = []
        costs = self.costs(living)
        for place, name in enumerate(self.order):
            there, sure, merit = {*living[name]}, {*self.sure[name]}, np.inf
            for unit in (int(u) for u in self.order[name] if int(u) in there and int(u) not in sure):
                merit = min(merit, float(self.worth[name][unit]) / costs[name])
                entries.append((-merit, place, len(entries), name, unit))
        return [(name, unit) for _, _, _, name, unit in sorted(entries)]

    def costs(self, living: Living) -> dict[str, float]:
        """What one unit of each group costs now; at least a little, so that nothing is divided by zero."""
        now = self.spending(self.network, living)
        found = {}
        for name in self.order:
            units = living[name]
            found[name] = now - self.spending(self.network, {**living, name: units[:-1]}) if len(units) > 1 else 0.0
        usual = float(np.median([cost for cost in found.values() if cost > 0])) if any(c > 0 for c in found.values()) else 1.0
        return {name: max(cost, 1e-6 * usual) for name, cost in found.items()}

    @staticmethod
    def plus(kept: Living, entries: list[tuple[str, int]]) -> Living:
        more: dict[str, list[int]] = {}
        for name, unit in entries:
            more.setdefault(name, []).append(unit)
        return {**kept, **{name: tuple(sorted({*kept[name], *units})) for name, units in more.items()}}
