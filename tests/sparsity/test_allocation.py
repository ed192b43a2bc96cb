"""Allocations: the published check values, and counts that add up to the weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxsparse.errors import BudgetError
from fxsparse.models import build
from fxsparse.sparsity import ERK, Counts, Explicit, Global, Layer, Uniform, as_allocation
from fxsparse.sparsity.allocation import fill


def layers_of(spec: str) -> dict[str, Layer]:
    model = build(spec).model
    return {name: Layer(tuple(module.weight.shape)) for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


@pytest.mark.parametrize(("density", "dense"), [(0.10, {"conv1", "linear"}), (0.05, {"linear"}), (0.02, set())])
def test_erk_on_resnet20_leaves_these_layers_dense(density: float, dense: set[str]) -> None:
    layers = layers_of("fxsparse:resnet20")
    total = sum(layer.size for layer in layers.values())
    assert total == 268_336
    counts = ERK()(layers, round(density * total))
    assert sum(counts.values()) == round(density * total)
    assert {name for name, count in counts.items() if count == layers[name].size} == dense


def test_no_floor_at_one_in_ten_thousand() -> None:
    layers = layers_of("fxsparse:resnet34")
    total = sum(layer.size for layer in layers.values())
    assert total == 21_265_088
    for allocation in (ERK(), Uniform()):
        assert sum(allocation(layers, 2_127).values()) == 2_127


@given(st.lists(st.tuples(st.floats(0.01, 10), st.integers(1, 50)), min_size=1, max_size=8), st.floats(0, 1))
def test_fill_is_exact_and_within_sizes(rows: list[tuple[float, int]], share: float) -> None:
    shares, sizes = [s for s, _ in rows], [n for _, n in rows]
    total = round(share * sum(sizes))
    counts = fill(shares, sizes, total)
    assert sum(counts) == total and all(0 <= c <= n for c, n in zip(counts, sizes, strict=True))


def two(unit: int = 1) -> dict[str, Layer]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": Layer((4, 10), unit, torch.rand(40 // unit, generator=generator)),
        "b.weight": Layer((8, 20), unit, torch.rand(160 // unit, generator=generator)),
    }


def test_erk_by_hand() -> None:
    """Shares are the sums of the sizes, 14 and 28: at 30 weights a third and two thirds. At 150 the first is full."""
    assert ERK()(two(), 30) == {"a.weight": 10, "b.weight": 20}
    assert ERK()(two(), 150) == {"a.weight": 40, "b.weight": 110}
    assert Uniform()(two(), 50) == {"a.weight": 10, "b.weight": 40}
    assert ERK(power=0.0)(two(), 50) == Uniform()(two(), 50)


@pytest.mark.parametrize("total", [0, 1, 57, 200])
def test_the_global_ranking_is_one_ranking(total: int) -> None:
    layers = two()
    scores = torch.cat([layer.scores for layer in layers.values() if layer.scores is not None])
    chosen = scores.argsort(descending=True)[:total]
    assert Global()(layers, total) == {"a.weight": int((chosen < 40).sum()), "b.weight": int((chosen >= 40).sum())}


@given(st.integers(0, 200), st.sampled_from([1, 2, 4, 5]), st.sampled_from([ERK(), Uniform(), Global()]))
def test_units_are_whole_and_the_rest_is_less_than_one(total: int, unit: int, allocation: ERK | Uniform | Global) -> None:
    counts = allocation(two(unit), total)
    assert all(count % unit == 0 for count in counts.values())
    assert 0 <= total - sum(counts.values()) < unit


def test_explicit_densities_and_counts() -> None:
    explicit = as_allocation({"a": 0.5, "*": 0.25})
    assert isinstance(explicit, Explicit) and explicit.total(two()) == 60
    assert explicit(two(), 60) == {"a.weight": 20, "b.weight": 40}
    assert explicit(two(), 30) == {"a.weight": 10, "b.weight": 20}  # under another total they are shares
    counts = Counts({"a.weight": 7, "b.weight": 13})
    assert counts(two(), 20) == {"a.weight": 7, "b.weight": 13}
    with pytest.raises(BudgetError, match="the counts add up to 20 weights and the density asks for 21"):
        counts(two(), 21)
    with pytest.raises(BudgetError, match=r"'c\.weight' is in one of them only"):
        Counts({"a.weight": 7, "b.weight": 13, "c.weight": 1})(two(), 21)
    with pytest.raises(BudgetError, match=r"a\.weight cannot keep 41 of 40"):
        Counts({"a.weight": 41, "b.weight": 13})(two(), 54)


def test_totals_that_do_not_fit() -> None:
    with pytest.raises(BudgetError, match="201 weights cannot be kept of 200"):
        ERK()(two(), 201)
    with pytest.raises(BudgetError, match="ranks all weights, and a has no scores"):
        Global()({"a": Layer((2, 2))}, 2)
