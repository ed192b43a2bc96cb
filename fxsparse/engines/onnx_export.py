"""Lowering to ONNX, through torch's own exporter, checked against the module before the file is there."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fxsparse.engines.base import module_and_inputs
from fxsparse.engines.onnx_parity import check_parity
from fxsparse.errors import LoweringError
from fxsparse.network import Network

Precision = Literal["fp32", "fp16"]
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}  # of the largest output
KEPT_IN_FP32 = (
    "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "ReduceMean", "ReduceSum", "ReduceL2", "Exp", "Log", "Sqrt", "Pow", "Reciprocal",
)  # fmt: skip


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how it compares with the module."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    precision: str
    dynamic_batch: bool
    max_error: float  # relative to the largest output
    bytes: int


def export_onnx(
    model: Network | nn.Module,
    path: str | os.PathLike[str],
    *,
    inputs: Sequence[Any] | Tensor | None = None,
    dynamic_batch: bool = False,
    precision: Precision = "fp32",
    opset: int | None = None,
) -> OnnxReport:
    """Write a model as ONNX, in evaluation mode. The file appears when it has passed the checker, shape inference and the comparison."""
    if precision not in TOLERANCE:
        raise LoweringError(f"precision is one of {', '.join(TOLERANCE)}, not {precision!r}")
    module, example = module_and_inputs(model, inputs)
    target = Path(path)
    if not target.parent.is_dir():
        raise LoweringError(f"the folder {target.parent} is not there; make it first")
    with evaluating(module), quiet():
        program = _exported(module, example, dynamic_batch, opset)
        proto = program.model_proto
        if precision == "fp16":
            proto = _halved(proto)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as folder:
            draft = Path(folder) / target.name
            _write(proto, draft)
            error = check_parity(draft, module, program.exported_program, example, TOLERANCE[precision])
            size = draft.stat().st_size
            for file in Path(folder).iterdir():
                os.chmod(file, 0o644)
                os.replace(file, target.parent / file.name)
    graph = proto.graph
    operators: dict[str, int] = {}
    for node in graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    names = tuple(each.name for each in graph.input), tuple(each.name for each in graph.output)
    return OnnxReport(target, *names, dict(sorted(operators.items())), precision, dynamic_batch, error, size)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and each part as it was afterwards."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, training in modes:
            each.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints, logs and warns about itself."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _exported(module: nn.Module, example: tuple[Any, ...], dynamic_batch: bool, opset: int | None) -> Any:
    shapes: Any = None
    if dynamic_batch:
        batch = torch.export.Dim("batch", min=1, max=1 << 16)
        example = tree_map_only(Tensor, _two_rows, example)  # a size of 1 would be taken for a constant
        free = tuple(tree_map_only(Tensor, lambda t: {0: batch} if t.dim() else None, each) for each in example)
        shapes = dict(inspect.signature(module.forward).bind(*free).arguments)  # by name: torch counts *args as one
    try:
        program = torch.onnx.export(module, example, dynamo=True, verbose=False, dynamic_shapes=shapes, opset_version=opset)
    except Exception as error:
        raise LoweringError(_why(module, error)) from error
    assert program is not None
    return program


def _two_rows(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _why(module: nn.Module, error: BaseException) -> str:
    """The innermost thing that torch says, and where."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    said = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), type(chain[-1]).__name__)
    node = next((str(getattr(each, "node", "")) for each in chain if getattr(each, "node", None) is not None), "")
    where = next((line.strip() for each in chain for line in str(each).splitlines() if "node" in line.lower() and "%" in line), node)
    return f"{type(module).__name__} cannot be exported to ONNX: {said[:300]}" + (f" (at {where[:160]})" if where else "")


def _halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in half precision; inputs, outputs, softmax and norms stay in single precision."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = sorted({*DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FP32})
    made: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=True, op_block_list=blocked, disable_shape_infer=False)
    # the cast of a shared weight was written once for each use
    nodes = list({node.output[0]: node for node in made.graph.node}.values())
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    del made.graph.value_info[:]  # the types of before
    model = ir.serde.deserialize_model(made)
    model.graph.sort()  # the casts of the inputs were appended at the end
    return ir.serde.serialize_model(model)


def _write(proto: onnx.ModelProto, draft: Path) -> None:
    large = proto.ByteSize() > 1_900_000_000  # protobuf holds 2 GiB
    onnx.save(proto, draft, save_as_external_data=large, location=draft.name + ".data" if large else None)
    try:
        onnx.checker.check_model(str(draft))
        if not large:
            onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LoweringError(f"the exported graph is no valid ONNX: {str(error).splitlines()[0]}") from error
