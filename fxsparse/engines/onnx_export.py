"""Lowering to ONNX, through torch's own exporter, checked against the module before the file is there."""

from __future__ import annotations

import contextlib
import functools
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
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.engines.base import module_and_inputs
from fxsparse.engines.onnx_parity import check_parity
from fxsparse.engines.onnx_refusal import refusal
from fxsparse.errors import LoweringError
from fxsparse.network import Network
from fxsparse.tracing.outputs import output_tensors
from fxsparse.tracing.pins import FREE
from fxsparse.tracing.recording import first_line

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
    if target.is_dir():
        raise LoweringError(f"{target} is a folder; give the name of a file in it, such as {target / 'model.onnx'}")
    with evaluating(module), quiet(), _writing(target), _tensors_alone(module, example):
        program = _exported(model, module, example, dynamic_batch, opset)
        proto = program.model_proto
        written = next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
        if opset is not None and written != opset:
            raise LoweringError(f"torch's exporter writes opset {written} here, not {opset}; ask for {written}, or leave opset out")
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
def _tensors_alone(module: nn.Module, example: tuple[Any, ...]) -> Iterator[None]:
    """A file has tensors for outputs: while this is open, numbers and texts beside them are left out of what the module returns, and plain
    objects are opened."""
    outputs: list[Any] = []
    with contextlib.suppress(Exception):  # the exporter will meet it again, and say where it is
        outputs = tree_leaves(module(*example))
    if all(isinstance(leaf, Tensor) or leaf is None for leaf in outputs):
        yield
        return
    hook = module.register_forward_hook(lambda _module, _inputs, out: output_tensors(out))
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LoweringError(f"{target} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints, logs and warns about itself, from many corners of torch."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _exported(model: Network | nn.Module, module: nn.Module, example: tuple[Any, ...], dynamic_batch: bool, opset: int | None) -> Any:
    shapes: Any = None
    if dynamic_batch:
        _require_other_batches(module, example)
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        example = tree_map_only(Tensor, _two_rows, example)  # a size of 1 would be taken for a constant
        free = tuple(tree_map_only(Tensor, lambda t: {0: batch} if t.dim() else None, each) for each in example)
        shapes = dict(inspect.signature(module.forward).bind(*free).arguments)  # by name: torch counts *args as one
    asked: list[str] = []
    token = FREE.set(asked)
    try:
        program = torch.onnx.export(module, example, dynamo=True, verbose=False, dynamic_shapes=shapes, opset_version=opset)
    except Exception as error:
        raise LoweringError(refusal(model, module, example, error)) from error
    finally:
        FREE.reset(token)
    assert program is not None and program.exported_program is not None
    if dynamic_batch and asked:
        raise LoweringError(f"the batch cannot be free: {asked[0]}; {FIXED}")
    if dynamic_batch and not _is_free(program.exported_program):
        raise LoweringError(f"the batch cannot be free: the code computes from it what a file cannot; {FIXED}")
    for rows in program.exported_program.range_constraints.values() if dynamic_batch else ():
        if rows.upper < LARGEST_BATCH:
            raise LoweringError(f"the batch cannot be free: the code takes another way for batches larger than {rows.upper}; {FIXED}")
    return program


LARGEST_BATCH = 1 << 16
FIXED = "leave dynamic_batch out, and export for the batch that you will run"


def _require_other_batches(module: nn.Module, example: tuple[Any, ...]) -> None:
    """An ONNX graph would not refuse those by which the traced code took another way."""
    for count in (1, 3):
        try:
            with torch.no_grad():
                module(*tree_map_only(Tensor, functools.partial(_of_rows, count), example))
        except Exception as error:
            raise LoweringError(f"the batch cannot be free: with one of {count}, {first_line(error)}; {FIXED}") from error


def _is_free(program: torch.export.ExportedProgram) -> bool:
    """Whether the batch of any input is: the exporter tries again with fixed sizes where free ones do not pass."""
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    return any(isinstance(each, Tensor) and each.dim() and isinstance(each.shape[0], torch.SymInt) for each in values)


def _of_rows(count: int, tensor: Tensor) -> Tensor:
    return torch.cat([tensor[:1]] * count) if tensor.dim() else tensor


def _two_rows(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in half precision; inputs, outputs, softmax and norms stay in single precision."""
    import onnx_ir as ir  # here, as it brings sympy: a second of every command's start
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
