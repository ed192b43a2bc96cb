"""Counts of living weights between bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fxsparse.errors import BudgetError


def within(counts: Mapping[str, int], least: Mapping[str, int], most: Mapping[str, int], units: Mapping[str, int]) -> dict[str, int]:
    """The counts, moved between tensors by as little as brings each between its bounds; their sum stays.

    Rounding makes this needed: an allocation may give a tensor one weight less under a larger budget.
    """
    total, made = sum(counts.values()), {name: min(max(count, least[name]), most[name]) for name, count in counts.items()}
    for name in sorted(made, key=lambda name: -units[name]):
        missing = total - sum(made.values())
        room = (most[name] - made[name]) if missing > 0 else (made[name] - least[name])
        made[name] += int(math.copysign(min(abs(missing), room) // units[name] * units[name], missing))
    if sum(made.values()) != total and all(unit == 1 for unit in units.values()):
        raise BudgetError(f"{total:,} weights do not fit between {sum(least.values()):,} and {sum(most.values()):,}")
    return made


def share_of_cycle(growth: float, cycle: int, cycles: int, decay: str) -> float:
    """How much grows at the end of a cycle, as a share of what lives."""
    return growth * (1 + math.cos(math.pi * cycle / cycles)) / 2 if decay == "cosine" else growth
