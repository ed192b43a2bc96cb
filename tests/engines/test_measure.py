"""The method of measuring, on contenders whose times are known in relation to each other."""

from __future__ import annotations

import numpy as np
import pytest

from fxsparse.engines.measure import Timing, compare, ratio
from fxsparse.errors import Error


def test_each_contender_runs_often_enough_and_in_turn() -> None:
    calls: list[str] = []
    found = compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=20, seconds=0, warmup=0)
    assert {name: len(timing.samples) for name, timing in found.items()} == {"a": 20, "b": 20}
    rounds = ["".join(calls[i : i + 2]) for i in range(4, len(calls), 2)]  # after two runs each to get warm
    assert set(rounds) == {"ab", "ba"}


def test_a_ratio_has_an_interval_that_holds_the_truth() -> None:
    generator = np.random.default_rng(0)
    slow, fast = (Timing(scale * (1 + 0.05 * generator.standard_normal(200))) for scale in (2.0, 1.0))
    found = ratio(slow, fast)
    assert found.low < 2.0 < found.high and found.told_apart
    same = ratio(fast, Timing(1 + 0.05 * generator.standard_normal(200)))
    assert same.low < 1.0 < same.high and not same.told_apart


def test_noise_is_said() -> None:
    generator = np.random.default_rng(0)
    assert not Timing(np.full(50, 2.0)).noisy
    assert Timing(1 + generator.random(50) * 3).noisy
    data = Timing(np.arange(1.0, 101.0)).as_data()
    assert (data["median_ms"], data["runs"]) == (50.5, 100)
    assert data["p90_ms"] == pytest.approx(90.1)


def test_wrong_measurements() -> None:
    with pytest.raises(Error, match="nothing to measure"):
        compare({})
    with pytest.raises(Error, match="at least 2 runs"):
        compare({"a": lambda: None}, runs=1)
