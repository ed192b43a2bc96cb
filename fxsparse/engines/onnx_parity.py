"""An ONNX file against the module that it came from; where they differ, the first tensor that does is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxsparse.errors import LoweringError
from fxsparse.tracing.outputs import output_tensors


def feed(session: onnxruntime.InferenceSession, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """The inputs by the names of the file."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return {each.name: leaf.detach().cpu().numpy() for each, leaf in zip(session.get_inputs(), leaves, strict=False)}


def check_parity(path: Path, module: nn.Module, program: Any, inputs: tuple[Any, ...], tolerance: float) -> float:
    """The largest difference of any output, relative to the largest value; an error above the tolerance."""
    try:
        session = onnxruntime.InferenceSession(str(path), _calm(), providers=["CPUExecutionProvider"])
        got = session.run(None, feed(session, inputs))
    except Exception as error:
        raise LoweringError(f"ONNX Runtime does not run the exported file: {str(error).splitlines()[0]}") from error
    wanted = output_tensors(module(*inputs))
    if len(got) != len(wanted):
        raise LoweringError(f"the exported file has {len(got)} outputs, and the module {len(wanted)}")
    errors = [difference(torch.from_numpy(np.asarray(a)), b) for a, b in zip(got, wanted, strict=True)]
    worst = max(errors, default=0.0)
    if not worst <= tolerance:
        first = first_divergence(path, program, inputs, tolerance)
        raise LoweringError(
            f"the exported file differs from the module by {worst:.1e} of the largest output (allowed: {tolerance:.0e}); "
            f"the first tensor that differs is {first}"
        )
    return worst


def difference(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value; infinite for other shapes, or NaN where there should be none."""
    if got.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    a, b = got.double(), wanted.detach().cpu().double()
    scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 1.0
    same = (a == b) | (a.isnan() & b.isnan())
    off = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    return float(off.max()) / max(scale, 1e-6)


def _calm() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


class _Values(fx.Interpreter):
    """Runs an exported program and keeps what each node made."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.seen[n.name] = value.detach().clone()
        return value


def first_divergence(path: Path, program: Any, inputs: tuple[Any, ...], tolerance: float) -> str:
    """The name of the first value, in the order of the graph, that the file and the program compute differently."""
    values = _Values(program.module())
    values.run(*inputs)
    proto = onnx.load(str(path))
    known = {each.name for each in proto.graph.output}
    named = [name for node in proto.graph.node for name in node.output if name in values.seen]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in named if name not in known)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), _calm(), providers=["CPUExecutionProvider"])
    found = session.run(named, feed(session, inputs)) if named else []
    for name, got in zip(named, found, strict=True):
        error = difference(torch.from_numpy(np.asarray(got)).double(), values.seen[name].double())
        if not error <= tolerance:
            return f"{name!r} of shape {tuple(values.seen[name].shape)}, by {error:.1e}"
    return "an output; no tensor inside the graph has a name that both sides know"
