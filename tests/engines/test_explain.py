"""Profiles of layers, and why a layer did not get faster, on profiles whose reason is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import fxsparse
from fxsparse.engines.explain import explain, summary
from fxsparse.engines.inductor import Inductor
from fxsparse.engines.profile import LayerTime, Places, profile
from fxsparse.errors import LoweringError
from tests.engines.test_onnx import pruned


def conv(milliseconds: float, width: int, out: int = 64, image: int = 32) -> LayerTime:
    shapes = ((1, width, image, image), (out, width, 3, 3))
    return LayerTime("conv", "Conv", milliseconds, shapes, ((1, out, image, image),), out * image * image * width * 9, (out, width, 3, 3))


def copy(milliseconds: float, numbers: int) -> LayerTime:
    return LayerTime("copy", "Relu", milliseconds, ((numbers,),), ((numbers,),), 0)


SMALL = [copy(0.01, 8) for _ in range(10)]


def test_a_network_is_profiled_layer_by_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 5))
    network = fxsparse.trace(model, torch.randn(2, 3, 8, 8))
    small = pruned(model, torch.randn(2, 3, 8, 8))
    before, after = profile(network, runs=3), profile(small, runs=3)
    heavy = [layer for layer in before if layer.macs]
    assert sum(layer.macs for layer in heavy) == network.macs
    assert sum(layer.macs for layer in after) == small.macs < network.macs
    assert all(layer.milliseconds > 0 for layer in heavy)
    found = explain(before, after)
    assert [each.before.macs for each in found] == [layer.macs for layer in heavy]
    assert set(found[0].as_data()) >= {"layer", "time_ratio", "macs_ratio", "reasons", "widths"}


def test_fused_layers_are_found_in_the_file() -> None:
    constants = [helper.make_tensor(name, TensorProto.FLOAT, dims, [0.0] * 12) for name, dims in (("w", [4, 3]), ("v", [3, 4]))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "node_MatMul_1"),
        helper.make_node("Add", ["m", "b"], ["a"], "node_add"),
        helper.make_node("MatMul", ["a", "v"], ["n"], "node_MatMul_2"),
    ]
    places = Places(helper.make_graph(nodes, "g", [], [], constants))
    assert places.of("node_MatMul_1/MatMulAddFusion", "Gemm") == (0, (4, 3))
    assert places.of("node_MatMul_2/MatMulScaleFusion/", "FusedMatMul") == (2, (3, 4))
    assert places.of("a", "Gemm") == (0, (4, 3))
    assert places.of("somewhere", "Gemm") == (-1, None)


def test_what_follows_its_macs_needs_no_reason() -> None:
    found = explain([conv(1.0, 64), *SMALL], [conv(0.5, 32), *SMALL])
    assert found[0].reasons == () and summary(found) == "every layer got as much faster as it got smaller"


def test_odd_widths() -> None:
    (found,) = explain([conv(1.0, 64), *SMALL], [conv(0.9, 33), *SMALL])
    assert "odd width: 33 is no multiple of 8" in found.reasons
    assert "time x0.90, MACs x0.52; odd width: 33" in summary([found])


def test_branches_that_ran_in_another_order_are_paired() -> None:
    def two(first: int, second: int) -> list[LayerTime]:
        layers = [replace(conv(1.0, width), place=place) for width, place in ((first, 3), (second, 7))]
        return [*layers, *SMALL]

    dense, small = two(64, 16), two(32, 8)
    small[:2] = small[1::-1]
    assert [each.macs_ratio for each in explain(dense, small)] == [0.5, 0.5]


def test_padding() -> None:
    padded = LayerTime("conv", "Conv", 0.9, ((1, 64, 32, 32), (64, 64, 3, 3)), ((1, 64, 32, 32),), 49 * 32 * 32 * 64 * 9, (49, 64, 3, 3))
    (found,) = explain([conv(1.0, 64), *SMALL], [padded, *SMALL])
    assert found.reasons[:2] == ("odd width: 49 is no multiple of 8", "padded: 49 channels are computed as 64")


def test_launch_bound() -> None:
    (found,) = explain([conv(0.012, 64, image=4), *SMALL], [conv(0.011, 32, image=4), *SMALL])
    assert [reason.partition(":")[0] for reason in found.reasons] == ["launch-bound"]


def test_memory_bound() -> None:
    moving, computing = copy(0.1, 1 << 20), conv(1.0, 512, 512)
    thin_before, thin_after = conv(1.0, 16, 8, image=256), conv(0.9, 8, 8, image=256)
    found = explain([thin_before, computing, moving, *SMALL], [thin_after, computing, moving, *SMALL])
    assert [reason.partition(":")[0] for reason in found[0].reasons] == ["memory-bound"]
    assert found[1].reasons == ()


def test_no_sparse_kernel() -> None:
    (found,) = explain([conv(1.0, 64)], [conv(1.0, 64)], masked=True)
    assert found.reasons == ("no sparse kernel: its zeros are multiplied like other numbers",)


def test_no_reason_is_said_as_such() -> None:
    (found,) = explain([conv(1.0, 64), *SMALL], [conv(0.9, 32), *SMALL])
    assert found.reasons[0].startswith("unexplained:")


def test_profiles_that_do_not_fit() -> None:
    with pytest.raises(LoweringError, match="have 1 and 2 convolutions and products, which cannot be paired"):
        explain([conv(1.0, 64)], [conv(1.0, 64), conv(1.0, 64)])
    with pytest.raises(LoweringError, match="nothing to explain"):
        explain(SMALL, SMALL)
    with pytest.raises(LoweringError, match="profiled on onnxruntime"):
        profile(nn.Linear(2, 2), Inductor(), torch.ones(1, 2))  # type: ignore[arg-type]
