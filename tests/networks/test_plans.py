"""Plans keep sorted unit numbers of prunable groups, never none."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks.plans import Plan, plans, random_plan


@dataclass(frozen=True)
class Group:
    name: str
    units: tuple[int, ...]
    prunable: bool = True


GROUPS = (Group("a", (0, 1, 2, 3, 4, 5, 6, 7)), Group("b", (3, 9)), Group("one", (5,)), Group("protected", (0, 1, 2), prunable=False))


def assert_valid(plan: Plan) -> None:
    assert list(plan) == ["a", "b", "one"]
    for group in GROUPS[:3]:
        units = plan[group.name]
        assert units and units == sorted(set(units)) and set(units) <= set(group.units)


@given(plans(GROUPS))
@settings(max_examples=50)
def test_drawn_plans_are_valid(plan: Plan) -> None:
    assert_valid(plan)
    assert len(plan["a"]) >= 4


@given(st.integers(0, 1000))
@settings(max_examples=50)
def test_random_plans_are_valid(seed: int) -> None:
    assert_valid(random_plan(GROUPS, random.Random(seed)))
    assert random_plan(GROUPS, random.Random(seed)) == random_plan(GROUPS, random.Random(seed))


def test_shares_are_kept() -> None:
    sizes = [len(random_plan(GROUPS, random.Random(seed), least=0.5, most=0.75)["a"]) for seed in range(200)]
    assert min(sizes) >= 1 and max(sizes) == 4
