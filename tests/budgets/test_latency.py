"""Latency tables and budgets: what is measured is kept, what is missing is measured, and the search keeps to what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxsparse
from fxsparse.budgets.latency import LatencyMeter
from fxsparse.budgets.latency_surface import Surface, surface
from fxsparse.budgets.latency_table import LatencyTable, cache_folder, staircase
from fxsparse.engines import engine
from fxsparse.engines.layers import Convolution, Layer, Pair, Product, runnable
from fxsparse.engines.profile import LayerTime
from fxsparse.errors import BudgetError
from fxsparse.passes import Prune

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


def test_what_others_have_written_meanwhile_stays(tmp_path: Path) -> None:
    one, other = (LatencyTable.open(engine("onnxruntime"), tmp_path) for _ in range(2))
    one.times["a"], other.times["b"] = 1.0, 2.0
    one.save()
    other.save()
    assert LatencyTable.open(engine("onnxruntime"), tmp_path).times == {"a": 1.0, "b": 2.0}
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]


def test_what_cannot_be_measured_or_written_is_one_sentence(tmp_path: Path) -> None:
    table = LatencyTable.open(engine("onnxruntime"), tmp_path)
    with pytest.raises(BudgetError, match=r"onnxruntime does not run Convolution\(.*inputs=16, .*so its time is not known: .*"):
        table.time(Convolution(1, 16, 30, 4, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)))  # 30 outputs for 4 groups
    (tmp_path / "file").write_text("")
    table.path = tmp_path / "file" / "table.json"
    with pytest.raises(BudgetError, match=r"table\.json cannot be written: .*; let FXSPARSE_CACHE name a folder that can be"):
        table.save()


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
    with pytest.raises(BudgetError, match="at its narrowest"):
        Prune(latency="0.0001ms")(network)


@pytest.fixture
def meter() -> LatencyMeter:
    """Of the chain, with a table in which a layer takes a nanosecond for each MAC."""
    network = fxsparse.trace(Chain().eval(), torch.randn(1, 3, 24, 24))
    return LatencyMeter(network.origin.structure, Said(lambda layer: layer.width * 1e-6 if isinstance(layer, Pair) else layer.macs * 1e-6))


def test_a_meter_adds_up_layers_and_what_they_leave_over(meter: LatencyMeter) -> None:
    macs = [24 * 24 * 32 * 27, 24 * 24 * 32 * 32 * 9, 22 * 22 * 4 * 32 * 9]
    dense = np.array([float(len(meter.structure.classes[name])) for name in meter.names])
    assert [layer.macs for layer in meter.layers] == macs
    assert meter.of_layers(dense) == pytest.approx(sum(macs) * 1e-6)
    meter.calibrate(dense, 2 * meter.of_layers(dense))
    assert meter(dense) == pytest.approx(2 * meter.of_layers(dense))  # the rest goes with the activations
    meter.calibrate(dense, 0.5 * meter.of_layers(dense))
    assert meter(dense) == pytest.approx(0.5 * meter.of_layers(dense))


def test_what_layers_take_inside_the_network_counts(meter: LatencyMeter) -> None:
    dense = np.array([float(len(meter.structure.classes[name])) for name in meter.names])
    alone = [layer.macs * 1e-6 for layer in meter.layers]
    inside = [0.5 * alone[0], alone[1], alone[2] + 1.0]  # no change of layout; as alone; a millisecond for cold weights
    meter.calibrate(dense, sum(inside), inside)
    assert meter(dense) == pytest.approx(sum(inside))
    half = dense.copy()
    half[meter.position["b"]] /= 2
    assert meter(half) == pytest.approx(inside[0] + 0.5 * inside[1] + 0.5 * alone[2] + 0.5, rel=1e-6)


def test_a_profile_is_paired_with_the_layers_or_not_at_all(meter: LatencyMeter) -> None:
    dense = np.array([float(len(meter.structure.classes[name])) for name in meter.names])

    def profile(macs: list[int]) -> list[LayerTime]:
        return [LayerTime(f"n{i}", "Conv", float(i), ((1,),), ((1,),), m, None, i) for i, m in enumerate(macs)][::-1]

    macs = [layer.macs for layer in meter.layers]
    assert meter.paired(dense, [*profile(macs), LayerTime("r", "Relu", 5.0, (), (), 0)]) == [1e-6, 1.0, 2.0]
    assert meter.paired(dense, profile([*macs[:2], 7])) is None
    assert meter.paired(dense, profile(macs[:2])) is None
    half = dense.copy()
    half[meter.position["a"]] /= 2
    assert meter.paired(half, profile([macs[0] // 2, macs[1] // 2, macs[2]])) is not None  # of a network that was pruned before
