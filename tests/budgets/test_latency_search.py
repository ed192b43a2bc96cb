"""The search for widths: fast enough, in whole steps, and keeping no less than simple ways do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxsparse.budgets import Limits, Search
from fxsparse.budgets.latency_search import widths_for_latency
from fxsparse.budgets.meter import Widths
from fxsparse.budgets.search import widths_for
from fxsparse.errors import BudgetError
from fxsparse.passes.prune_latency import _next_aim

NAMES = ["a", "b", "c", "d"]
WIDE = np.array([64.0, 96.0, 64.0, 128.0])


class Made:
    """Four layers in a row; each has its own speed, and computes in blocks of 16."""

    def __init__(self, speeds: list[float]) -> None:
        self.speeds = speeds

    def layers(self, widths: Widths) -> list[tuple[float, float]]:
        line = [3.0, *widths.tolist(), 10.0]
        return list(itertools.pairwise(line))

    def macs(self, widths: Widths) -> float:
        return sum(a * b for a, b in self.layers(widths))

    def time(self, widths: Widths) -> float:
        parts = zip(self.layers(widths), self.speeds, strict=True)
        return float(sum(a * np.ceil(b / 16) * 16 * speed for (a, b), speed in parts) + 0.5 * widths.sum())


def search(made: Made, share: float, step: int = 8) -> Search:
    scores = {i: np.linspace(0.1 * (i + 1), 1, int(width)) for i, width in enumerate(WIDE)}
    return Search(made.time, WIDE, scores, NAMES, share * made.time(WIDE), Limits(steps=dict.fromkeys(NAMES, step)))


def importance(asked: Search, widths: Widths) -> float:
    return sum(float(np.sort(asked.groups[i])[::-1][: int(widths[i])].sum()) for i in range(len(NAMES)))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_the_target_is_met_in_whole_steps(share: float) -> None:
    asked = search(Made([1.0, 1.0, 1.0, 1.0, 1.0]), share)
    found = widths_for_latency(asked)
    assert 0.85 * asked.target <= asked.measure(found) <= asked.target
    assert not (found % 8).any()
    with pytest.raises(BudgetError, match="at its narrowest the network still takes"):
        widths_for_latency(replace(asked, target=1.0))


@settings(max_examples=15, deadline=None)
@given(speeds=st.lists(st.sampled_from([0.5, 1.0, 1.0, 2.0, 4.0]), min_size=5, max_size=5), share=st.sampled_from([0.4, 0.6, 0.8]))
def test_no_fewer_macs_than_uniform_pruning_and_no_less_importance(speeds: list[float], share: float) -> None:
    made = Made(speeds)
    asked = search(made, share)
    found = widths_for_latency(asked, made.macs)
    uniform = widths_for(replace(asked, scope="local"))
    assert made.time(found) <= asked.target
    assert made.macs(found) >= made.macs(uniform)
    assert importance(asked, found) >= importance(asked, uniform) - 1e-9
    assert not (found % 8).any()


def test_two_widths_that_only_together_are_fast() -> None:
    def time(widths: Widths) -> float:
        return float(widths[0] * widths[1] * (0.2 if widths[0] % 16 == widths[1] % 16 == 0 else 1.0))

    scores = {0: np.linspace(0.1, 1, 24), 1: np.linspace(0.1, 1, 24)}
    fine, whole = Limits(steps={"a": 4, "b": 4}), Limits(steps={"a": 16, "b": 16})
    asked = Search(time, np.array([24.0, 24.0]), scores, ["a", "b"], 100.0, fine)
    found = widths_for_latency(asked, lambda widths: float(widths.prod()), whole)
    assert found.tolist() == [16, 16]


def test_the_aim_is_corrected_towards_the_target() -> None:
    assert _next_aim([(10.0, 10.0)], 5.0) == 5.0
    assert _next_aim([(10.0, 10.0), (5.0, 4.0)], 5.0) > 5.0
    assert 5.0 < _next_aim([(10.0, 10.0), (5.0, 4.0), (7.0, 6.0)], 5.0) < 7.0
    assert _next_aim([(10.0, 10.0), (4.0, 6.0)], 4.0) < 4.0
