"""Time per layer, before and after: a separate pass, as profilers slow what they watch. Never the latency."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor, nn

from fxsparse.engines.base import module_and_inputs
from fxsparse.engines.onnx_export import export_onnx
from fxsparse.engines.onnxruntime import OnnxRuntime, Session
from fxsparse.errors import LoweringError
from fxsparse.network import Network

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerTime:
    """One layer of an engine: how long it takes, and on what shapes it works."""

    name: str
    kind: str
    milliseconds: float
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    macs: int
    weight: Shape | None = None  # as exported: the engine may compute more channels
    place: int = -1  # in the exported file: engines run branches in an order of their own

    @property
    def bytes(self) -> int:
        """What it must move at least, at four bytes a number."""
        shapes = (*self.inputs, *self.outputs)
        return 4 * sum(_count(shape) for shape in shapes)

    def as_data(self) -> dict[str, Any]:
        return {
            "layer": self.name,
            "kind": self.kind,
            "ms": self.milliseconds,
            "macs": self.macs,
            "inputs": [list(shape) for shape in self.inputs],
            "outputs": [list(shape) for shape in self.outputs],
        }


def profile(
    model: Network | nn.Module, engine: OnnxRuntime | None = None, inputs: Sequence[Any] | Tensor | None = None, runs: int = 20
) -> tuple[LayerTime, ...]:
    """Mean time of each layer on ONNX Runtime, in the order of the run."""
    runtime = engine or OnnxRuntime()
    if not isinstance(runtime, OnnxRuntime):
        raise LoweringError("layers are profiled on onnxruntime; a built TensorRT engine has layer_times()")
    return build_profiled(runtime, model, inputs, runs)[1]


def build_profiled(
    engine: OnnxRuntime, model: Network | nn.Module, inputs: Sequence[Any] | Tensor | None = None, runs: int = 20
) -> tuple[Session, tuple[LayerTime, ...]]:
    """Built, and profiled, with one export."""
    _, example = module_and_inputs(model, inputs)
    with tempfile.TemporaryDirectory(prefix="fxsparse-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, inputs=example, precision=engine.precision)
        return engine.open(path, example), profile_file(path, engine, example, runs)


def profile_file(path: Path, engine: OnnxRuntime, inputs: Sequence[Any] | None = None, runs: int = 20) -> tuple[LayerTime, ...]:
    """The same of an ONNX file; without inputs, on random ones of its shapes."""
    with tempfile.TemporaryDirectory(prefix="fxsparse-") as folder:
        session = engine.open(path, inputs, str(Path(folder) / "trace"))
        once = session.prepare()
        for _ in range(runs + 3):
            once()
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    return layers_of_trace(events, Places(onnx.load(path, load_external_data=False).graph))


class Places:
    """Where a file's convolutions and products stand, and their weights, found by the runtime's names.

    What it fuses is called as the last fused node, or as that node's output.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {each.name: tuple(each.dims) for each in graph.initializer}
        self._makers = {made: node for node in graph.node for made in node.output}
        self._makers |= {node.name: node for node in graph.node}
        self._order = {node.name: index for index, node in enumerate(graph.node)}

    def of(self, name: str, kind: str) -> tuple[int, Shape | None]:
        """The number of the nearest node of this kind, backwards from the named one, and its weight."""
        wanted = ("Conv",) if "Conv" in kind else ("Gemm", "MatMul")  # a product and the addition after it become a Gemm
        front = [name.removesuffix("_nchwc"), name.partition("/")[0]]  # node_MatMul_1/MatMulAddFusion
        for _ in range(6):  # a convolution, its norm, an addition, an activation of a few nodes
            nodes = [self._makers[each] for each in front if each in self._makers]
            for node in nodes:
                if any(each in node.op_type for each in wanted):
                    return self._order[node.name], self._constants.get(node.input[1])
            front = [each for node in nodes for each in node.input]
        return -1, None


def layers_of_trace(events: list[dict[str, Any]], places: Places) -> tuple[LayerTime, ...]:
    """ONNX Runtime's trace: an event for each node and run; the first three runs warm up."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            seen.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    made = []
    for name, all_runs in seen.items():
        counted = all_runs[3:] or all_runs
        about = counted[0].get("args", {})
        taken, made_of = _shapes(about.get("input_type_shape", [])), _shapes(about.get("output_type_shape", []))
        kind = str(about.get("op_name", ""))
        place, weight = places.of(name, kind)
        macs = _macs(kind, taken, made_of, weight)
        milliseconds = sum(float(event["dur"]) for event in counted) / len(counted) / 1e3
        made.append(LayerTime(name, kind, milliseconds, tuple(taken), tuple(made_of), macs, weight, place))
    return tuple(made)


def _shapes(said: Any) -> list[Shape]:
    """`[{"float": [1, 64, 56, 56]}, ...]`"""
    return [tuple(int(size) for size in shape) for entry in said for shape in entry.values()]


def _macs(kind: str, inputs: Sequence[Shape], outputs: Sequence[Shape], weight: Shape | None) -> int:
    """Multiply-accumulates of convolutions and products, without what the engine pads; other layers have none to speak of."""
    if not outputs or not inputs or not inputs[0]:
        return 0
    if "Conv" in kind and "Transpose" not in kind:
        return outputs[0][0] * _count(outputs[0][2:]) * _count(weight) if weight is not None else 0
    return _count(outputs[0]) * inputs[0][-1] if "Gemm" in kind or "MatMul" in kind else 0


def _count(shape: Shape) -> int:
    return math.prod(shape)
