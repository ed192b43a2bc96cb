"""The knapsack of latency budgets (HALP, Shen et al., 2022): how much of each group to keep, so that most importance is kept for the time.

A weaker unit is kept only together with the stronger ones of its group: each group chooses one level of its ranked units.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fxsparse.errors import BudgetError

Numbers = npt.NDArray[np.float64]


def choose_levels(values: Sequence[Numbers], costs: Sequence[npt.NDArray[np.int64]], capacity: int) -> list[int]:
    """One level of each group, so that the sum of values is the largest whose costs add up to at most `capacity`. Exact.

    `values[g][l]` and `costs[g][l]` are those of level l of group g; costs are whole numbers, at least 0.
    """
    if any(len(v) != len(c) or not len(v) for v, c in zip(values, costs, strict=True)):
        raise BudgetError("each group of a knapsack has at least one level, with a value and a cost")
    best = np.zeros(capacity + 1)
    choices: list[npt.NDArray[np.int32]] = []
    for value, cost in zip(values, costs, strict=True):
        new = np.full(capacity + 1, -np.inf)
        choice = np.full(capacity + 1, -1, dtype=np.int32)
        for level, (worth, price) in enumerate(zip(value.tolist(), cost.tolist(), strict=True)):
            if price > capacity:
                continue
            candidate = best[: capacity + 1 - price] + worth
            better = candidate > new[price:]
            new[price:][better] = candidate[better]
            choice[price:][better] = level
        best = new
        choices.append(choice)
    if not np.isfinite(best[capacity]):
        raise BudgetError("even the narrowest widths do not fit into the budget")
    levels, left = [], capacity
    for choice, cost in zip(reversed(choices), reversed(costs), strict=True):
        level = int(choice[left])
        levels.append(level)
        left -= int(cost[level])
    return levels[::-1]
