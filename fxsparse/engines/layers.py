"""Single layers as an engine sees them: what latency tables are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

from fxsparse.engines.base import Engine
from fxsparse.engines.onnxruntime import OnnxRuntime

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """A convolution: batch, input channels, output channels, input channels of each group, image, kernel and how it moves."""

    batch: int
    inputs: int
    outputs: int
    inner: int
    image: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    transposed: bool = False

    @property
    def groups(self) -> int:
        return max(1, self.inputs // max(1, self.inner))

    @property
    def macs(self) -> int:
        moves = zip(self.image, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        made = self.image if self.transposed else [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in moves]
        return self.batch * self.outputs * self.inner * math.prod(self.kernel) * math.prod(made)

    def module(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        dims = len(self.kernel)
        cls: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if self.transposed else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        made = cls[dims - 1](self.inputs, self.outputs, self.kernel, self.stride, self.padding, dilation=self.dilation, groups=self.groups)
        return made, (torch.randn(self.batch, self.inputs, *self.image),)


@dataclass(frozen=True)
class Product:
    """A matrix product: so many of (rows, inner) times (inner, columns); with weights, the second is constant."""

    batch: int
    rows: int
    inner: int
    columns: int
    weights: bool

    @property
    def macs(self) -> int:
        return self.batch * self.rows * self.inner * self.columns

    def module(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        if self.weights:
            return nn.Linear(self.inner, self.columns), (torch.randn(self.rows, self.inner),)
        return _Matmul(), (torch.randn(self.batch, self.rows, self.inner), torch.randn(self.batch, self.inner, self.columns))


@dataclass(frozen=True)
class Pair:
    """A convolution of kernel 3, its ReLU, and the convolution that takes their result: how an engine likes the width between them.

    Alone, a convolution shows less: engines that keep channels in blocks change their layout at its ends.
    """

    batch: int
    channels: int
    width: int
    image: Sizes

    def module(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        made = nn.Sequential(nn.Conv2d(self.channels, self.width, 3, 1, 1), nn.ReLU(), nn.Conv2d(self.width, self.channels, 3, 1, 1))
        return made, (torch.randn(self.batch, self.channels, *self.image),)


Layer = Convolution | Product | Pair


class _Matmul(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b


def runnable(engine: Engine, layer: Layer) -> Callable[[], object]:
    """The layer, ready to be timed on an engine."""
    if isinstance(engine, OnnxRuntime):
        return _in_onnxruntime(engine, layer)
    module, inputs = layer.module()
    return engine.build(module.eval(), inputs).prepare()


def _in_onnxruntime(engine: OnnxRuntime, layer: Layer) -> Callable[[], object]:
    """A file of one node, written by hand: hundreds are wanted."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = engine.threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    proto, feeds = _one_node(layer)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["y"], feeds)


def _one_node(layer: Layer) -> tuple[onnx.ModelProto, dict[str, Any]]:
    generator = np.random.default_rng(0)

    def numbers(*shape: int) -> Any:
        return generator.standard_normal(shape).astype(np.float32) / math.sqrt(max(1, math.prod(shape[1:])))

    if isinstance(layer, Pair):
        feeds = {"x": numbers(layer.batch, layer.channels, *layer.image)}
        constants = {"w": numbers(layer.width, layer.channels, 3, 3), "v": numbers(layer.channels, layer.width, 3, 3)}
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Conv", ["r", "v"], ["y"], pads=[1] * 4),
        ]
    elif isinstance(layer, Convolution):
        channels = (layer.inputs, layer.outputs // layer.groups) if layer.transposed else (layer.outputs, layer.inner)
        feeds = {"x": numbers(layer.batch, layer.inputs, *layer.image)}
        constants = {"w": numbers(*channels, *layer.kernel), "b": numbers(layer.outputs)}
        name = "ConvTranspose" if layer.transposed else "Conv"
        pads = (*layer.padding, *layer.padding)
        options: dict[str, Any] = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": pads}
        options |= {"dilations": layer.dilation, "group": layer.groups}
        nodes = [helper.make_node(name, ["x", "w", "b"], ["y"], **options)]
    elif layer.weights:
        feeds, constants = {"x": numbers(layer.rows, layer.inner)}, {"w": numbers(layer.inner, layer.columns), "b": numbers(layer.columns)}
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    else:
        feeds = {"x": numbers(layer.batch, layer.rows, layer.inner), "w": numbers(layer.batch, layer.inner, layer.columns)}
        constants, nodes = {}, [helper.make_node("MatMul", ["x", "w"], ["y"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    initialisers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    outputs: Sequence[Any] = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), feeds
