"""Latency tables and budgets: what is measured is kept, what is missing is measured, and the search keeps to what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxsparse
from fxsparse.budgets import Limits, Search
from fxsparse.budgets.latency import LatencyMeter
from fxsparse.budgets.latency_search import widths_for_latency
from fxsparse.budgets.latency_surface import Surface, surface
from fxsparse.budgets.latency_table import LatencyTable, cache_folder, staircase
from fxsparse.engines import engine
from fxsparse.engines.layers import Convolution, Layer, Pair, Product, runnable
from fxsparse.errors import BudgetError
from fxsparse.passes import Prune
from fxsparse.passes.prune_latency import _next_aim

CONVOLUTION = Convolution(1, 16, 32, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
DEPTHWISE = Convolution(1, 16, 16, 1, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
LAYERS = [
    CONVOLUTION,
    DEPTHWISE,
    Convolution(1, 8, 12, 4, (6,), (3,), (2,), (1,), (1,)),
    Convolution(1, 8, 6, 8, (5, 5), (2, 2), (2, 2), (0, 0), (1, 1), transposed=True),
    Product(1, 10, 12, 7, True),
    Product(3, 10, 12, 7, False),
    Pair(1, 8, 6, (6, 6)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_alone_has_the_shape_of_its_module(layer: Convolution | Product | Pair) -> None:
    module, inputs = layer.module()
    found = runnable(engine("onnxruntime"), layer)()
    assert isinstance(found, list)
    assert tuple(found[0].shape) == tuple(module(*inputs).shape)


def test_what_is_measured_is_kept_and_what_is_missing_is_measured(tmp_path: Path) -> None:
    table = LatencyTable.open(engine("onnxruntime"), tmp_path)
    assert table.times == {}
    first = table.time(CONVOLUTION)
    assert first > 0 and table.time(CONVOLUTION) == first
    table.save()
    again = LatencyTable.open(engine("onnxruntime"), tmp_path)
    assert again.time(CONVOLUTION) == first
    assert again.time(DEPTHWISE) > 0 and len(again.times) == 2
    assert LatencyTable.open(engine("onnxruntime", threads=2), tmp_path).times == {}  # another table


@pytest.mark.parametrize("content", ["", "{}", '{"format": "fxsparse-latency/1", "about": {}, "times": {}}', "[1]"])
def test_a_damaged_table_is_one_sentence(tmp_path: Path, content: str) -> None:
    table = LatencyTable.open(engine("onnxruntime"), tmp_path)
    table.time(Product(1, 4, 4, 4, True))
    table.save()
    assert table.path is not None
    table.path.write_text(content)
    with pytest.raises(BudgetError, match=r"cannot be used: .*; delete it, and it is measured again"):
        LatencyTable.open(engine("onnxruntime"), tmp_path)


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXSPARSE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_a_surface_is_what_was_measured_and_linear_in_between() -> None:
    table = LatencyTable(engine("onnxruntime"), {})
    found = surface(table, CONVOLUTION, 4)
    assert type(found) is Surface
    assert found(16, 32, 16) == table.time(CONVOLUTION)
    for i in found.ins:
        for o in found.outs:
            assert found(i, o, i) == pytest.approx(table.time(found.narrowed(i, o)))
    a, b = found.outs[-2:]
    middle = (a + b) // 2
    part = (middle - a) / (b - a)
    assert found(16, middle, 16) == pytest.approx((1 - part) * found(16, a, 16) + part * found(16, b, 16))
    depthwise = surface(table, DEPTHWISE, 4)
    assert depthwise(16, 16, 1) == table.time(DEPTHWISE)
    assert all(isinstance(point, Convolution) and point.groups == point.inputs == point.outputs for point in depthwise.points())


class Said(LatencyTable):
    """Times by a formula, in place of measured ones."""

    def __init__(self, of: Callable[[Layer], float]) -> None:
        super().__init__(engine("onnxruntime"), {})
        self.of = of

    def time(self, layer: Layer) -> float:
        return self.of(layer)

    def together(self, layers: Sequence[Layer]) -> list[float]:
        return [self.of(layer) for layer in layers]


def test_a_grouped_convolution_loses_groups_and_channels_inside_them() -> None:
    layer = Convolution(1, 120, 120, 24, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))

    def macs(each: Layer) -> float:
        assert isinstance(each, Convolution) and each.inputs % each.groups == each.outputs % each.groups == 0
        return float(each.outputs * each.inner)

    grouped = surface(Said(macs), layer, 16)
    assert len(grouped.points()) <= 40
    assert grouped(120, 120, 24) == 120 * 24
    assert grouped(72, 72, 24) == pytest.approx(72 * 24)  # two groups less
    assert grouped(80, 120, 16) == pytest.approx(120 * 16)  # inputs of all groups
    assert grouped(48, 60, 16) == pytest.approx(60 * 16)  # both, and outputs of all groups
    for point in grouped.points():
        runnable(engine("onnxruntime"), point)()


@pytest.mark.parametrize("block", [1, 4, 16])
def test_the_staircase_is_found(block: int) -> None:
    def blocks(layer: Layer) -> float:
        width = layer.width if isinstance(layer, Pair) else layer.columns if isinstance(layer, Product) else 0
        return float(-(-width // block))

    def noisy(layer: Layer) -> float:
        return blocks(layer) * (0.98 if isinstance(layer, Pair) and layer.width % 8 == 7 else 1.0)  # one step looks good by chance

    wide: list[Layer] = [Convolution(1, 128, 128, 128, (56, 56), (3, 3), (1, 1), (1, 1), (1, 1)), Product(1, 197, 768, 3072, True)]
    assert staircase(Said(blocks), wide) == block
    assert staircase(Said(noisy), wide[:1]) == block
    assert staircase(Said(blocks), [CONVOLUTION]) == 1  # nothing wide


def _cost(widths: np.ndarray) -> float:
    return float(widths[0] * widths[1] + 3 * widths[1] + 50)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
def test_the_knapsack_search_meets_its_target(share: float) -> None:
    target = share * _cost(np.array([64.0, 96.0]))
    scores = {0: np.linspace(0.1, 1, 64), 1: np.linspace(0.5, 1, 96)}
    found = widths_for_latency(Search(_cost, np.array([64.0, 96.0]), scores, ["a", "b"], target, Limits(steps={"a": 8, "b": 8})))
    assert 0.85 * target <= _cost(found) <= target
    assert not found[0] % 8 and not found[1] % 8
    with pytest.raises(BudgetError, match="at its narrowest"):
        widths_for_latency(Search(_cost, np.array([64.0, 96.0]), scores, ["a", "b"], 51.0, Limits(steps={"a": 8, "b": 8})))


def test_the_aim_is_corrected_towards_the_target() -> None:
    assert _next_aim([(10.0, 10.0)], 5.0) == 5.0
    assert _next_aim([(10.0, 10.0), (5.0, 4.0)], 5.0) > 5.0
    assert 5.0 < _next_aim([(10.0, 10.0), (5.0, 4.0), (7.0, 6.0)], 5.0) < 7.0
    assert _next_aim([(10.0, 10.0), (4.0, 6.0)], 4.0) < 4.0


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))))
        return out


def test_a_network_is_pruned_to_a_measured_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXSPARSE_CACHE", str(tmp_path))
    network = fxsparse.trace(Chain().eval(), torch.randn(1, 3, 24, 24))
    seen: list[tuple[int, int]] = []
    result = Prune(latency=0.6)(network, progress=lambda done, of: seen.append((done, of)))
    assert result.network.macs < network.macs
    assert "ms measured" in result.notes[0] and "ms predicted" in result.notes[0]
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert len(list(tmp_path.glob("latency-onnxruntime-*.json"))) == 1
    fxsparse.verify(network, result.network)
    meter = LatencyMeter(network.origin.structure, LatencyTable.open(engine("onnxruntime")))
    widths = meter.widths(network.living)
    meter.calibrate(widths, 2 * meter.of_layers(widths))
    assert meter(widths) == pytest.approx(2 * meter.of_layers(widths))
    with pytest.raises(BudgetError, match="at its narrowest"):
        Prune(latency="0.0001ms")(network)
