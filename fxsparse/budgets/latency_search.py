"""Widths for a latency: the knapsack along an exponential schedule of targets, its costs being looked at again at each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fxsparse.budgets.knapsack import choose_levels
from fxsparse.budgets.meter import Widths
from fxsparse.budgets.search import Search, Walk
from fxsparse.errors import BudgetError

STAGES = 10
EXTRA = 10  # when the target is missed, because savings in one layer were counted for both of its sides
BINS = 2000
LEVELS = 16  # of each group at each stage


def widths_for_latency(search: Search) -> Widths:
    """Widths whose predicted time is at most the target, with the most importance that the knapsack finds."""
    walk = Walk(search)
    now, least = search.measure(search.start), search.measure(walk.floor())
    if search.target >= now:
        return search.start
    if least > search.target:
        raise BudgetError(f"at its narrowest the network still takes {least:.3g} ms, and {search.target:.3g} ms is asked for")
    for stage in range(1, STAGES + EXTRA + 1):
        target = now * (search.target / now) ** min(1.0, stage / STAGES)
        if search.measure(walk.widths) > target:
            walk.widths = _stage(walk, target)
        if stage >= STAGES and search.measure(walk.widths) <= search.target:
            break
    walk.trim()
    return walk.widths


def _stage(walk: Walk, target: float) -> Widths:
    """One knapsack at the present widths: for each group, what each narrower level would save, next layers included, all else as it is."""
    measure, widths = walk.search.measure, walk.widths
    now = measure(widths)
    levels: list[npt.NDArray[np.int64]] = []
    savings, values = [], []
    for p in walk.positions:
        allowed = walk.levels[p][walk.levels[p] <= widths[p]]
        chosen = allowed[np.unique(np.linspace(len(allowed) - 1, 0, min(LEVELS, len(allowed))).round().astype(int))]
        saved = []
        for level in chosen.tolist():
            fewer = widths.copy()
            fewer[p] = level
            saved.append(max(0.0, now - measure(fewer)))
        levels.append(chosen)
        savings.append(np.array(saved))
        worth = np.concatenate([[0.0], np.cumsum(walk.ranked[p])])
        values.append(worth[chosen])
    spare = sum(float(each.max()) for each in savings) - (now - target)
    if spare <= 0:
        return walk.floor()
    bin_size = spare / BINS
    costs = [np.ceil((each.max() - each) / bin_size - 1e-9).astype(np.int64) for each in savings]
    picked = choose_levels(values, costs, BINS)
    found = widths.copy()
    for p, line, level in zip(walk.positions, levels, picked, strict=True):
        found[p] = line[level]
    return found
