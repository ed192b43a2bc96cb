"""The meter's polynomials against a count of the network that was really made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import fxsparse
from fxsparse.budgets import Limits, Meter, Search, widths_for
from fxsparse.errors import BudgetError
from tests.cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameters_and_macs_are_those_of_the_network(case: Case) -> None:
    network = fxsparse.trace(case.build(), case.inputs())
    generator = np.random.default_rng(0)
    keep = {}
    for group in network.groups:
        if group.prunable and len(group.units) > 1:
            keep[group.name] = sorted(generator.permutation(group.units)[: generator.integers(1, len(group.units))].tolist())
    try:
        small = network.shrink(keep)
    except fxsparse.PlanError:
        small = network.shrink(dict(list(keep.items())[:1]))
    for measure, exact in (("parameters", small.parameter_count), ("macs", small.macs)):
        meter = Meter(network.origin.structure, measure)
        assert meter(meter.widths(small.living)) == pytest.approx(exact)
        assert meter(meter.widths(network.living)) == pytest.approx({"parameters": network.parameter_count, "macs": network.macs}[measure])


def test_memory_is_weights_and_the_fullest_moment() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False))
    network = fxsparse.trace(module, torch.randn(1, 2, 5, 5))
    meter = Meter(network.origin.structure, "memory")
    weights = 4 * (8 + 12)
    fullest = 4 * 25 * (4 + 4)  # the first convolution's result and its ReLU
    assert meter(meter.widths(network.living)) == weights + fullest


def _search(measure: Callable[[np.ndarray], float], target: float, limits: Limits | None = None) -> Search:
    scores = {0: np.linspace(1, 2, 40), 1: np.linspace(0.1, 3, 60)}
    return Search(measure, np.array([40.0, 60.0, 8.0]), scores, ["a", "b", "c"], target, limits or Limits())


def _cost(widths: np.ndarray) -> float:
    return float(widths[0] * widths[1] + 3 * widths[1] + 10 * widths[2])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.1])
def test_the_target_is_reached_and_not_exceeded(share: float) -> None:
    target = share * _cost(np.array([40.0, 60.0, 8.0]))
    widths = widths_for(_search(_cost, target))
    assert 0.97 * target <= _cost(widths) <= target
    assert widths[2] == 8  # not among the groups that may change


def test_limits_are_kept() -> None:
    limits = Limits(least={"a": 24}, steps={"a": 8, "b": 4})
    widths = widths_for(_search(_cost, 0.4 * 2660, limits))
    assert widths[0] % 8 == 0 and widths[0] >= 24 and widths[1] % 4 == 0
    with pytest.raises(BudgetError, match="at its narrowest"):
        widths_for(_search(_cost, 50, limits))
