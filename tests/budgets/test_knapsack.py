"""The knapsack against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsparse.budgets.knapsack import choose_levels
from fxsparse.errors import BudgetError

levels = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=4)


@given(st.lists(levels, min_size=1, max_size=4), st.integers(0, 25))
def test_no_choice_is_better(groups: list[list[tuple[int, int]]], capacity: int) -> None:
    values = [np.array([float(value) for value, _ in group]) for group in groups]
    costs = [np.array([cost for _, cost in group]) for group in groups]
    every = itertools.product(*(range(len(group)) for group in groups))
    fitting = [choice for choice in every if sum(int(c[i]) for c, i in zip(costs, choice, strict=True)) <= capacity]
    if not fitting:
        with pytest.raises(BudgetError, match="even the narrowest"):
            choose_levels(values, costs, capacity)
        return
    found = choose_levels(values, costs, capacity)
    assert sum(int(c[i]) for c, i in zip(costs, found, strict=True)) <= capacity
    best = max(sum(float(v[i]) for v, i in zip(values, choice, strict=True)) for choice in fitting)
    assert sum(float(v[i]) for v, i in zip(values, found, strict=True)) == best


def test_a_group_without_levels() -> None:
    with pytest.raises(BudgetError, match="at least one level"):
        choose_levels([np.zeros(0)], [np.zeros(0, dtype=np.int64)], 3)
