"""Allocations: the published check values, and counts that add up to the weight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fxsparse.models import build
from fxsparse.sparsity import ERK, Layer, Uniform
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
