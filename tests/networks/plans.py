"""Random plans: which units of each group stay."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

from hypothesis import strategies as st

Plan = dict[str, list[int]]


class Units(Protocol):
    """What a plan has to know of a group; the groups of a Network are such."""

    @property
    def name(self) -> str: ...

    @property
    def units(self) -> Sequence[int]: ...

    @property
    def prunable(self) -> bool: ...


def random_plan(groups: Iterable[Units], rng: random.Random, least: float = 0.0, most: float = 0.6) -> Plan:
    """Units to keep, sorted: of each prunable group a share between `least` and `most` goes, never all of it."""
    plan: Plan = {}
    for group in groups:
        if group.prunable:
            gone = min(int(rng.uniform(least, most) * len(group.units) + rng.random()), len(group.units) - 1)
            plan[group.name] = sorted(rng.sample(list(group.units), len(group.units) - gone))
    return plan


@st.composite
def plans(draw: st.DrawFn, groups: Iterable[Units], most: float = 0.6) -> Plan:
    """The same, drawn so that it shrinks: towards groups that stay whole, and towards losing the first units."""
    plan: Plan = {}
    for group in groups:
        if group.prunable:
            limit = min(int(most * len(group.units)), len(group.units) - 1)
            gone = draw(st.sets(st.sampled_from(list(group.units)), max_size=limit)) if limit else set[int]()
            plan[group.name] = [unit for unit in group.units if unit not in gone]
    return plan
