"""ONNX Runtime on CPU: the engine that is always there."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.engines.base import module_and_inputs, require_like
from fxsparse.engines.onnx_export import Precision, export_onnx
from fxsparse.errors import LoweringError
from fxsparse.network import Network

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64, "tensor(int64)": torch.int64}
TYPES |= {"tensor(int32)": torch.int32, "tensor(bool)": torch.bool}


@dataclass(frozen=True)
class OnnxRuntime:
    """Sessions with an explicit number of threads."""

    threads: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise LoweringError(f"ONNX Runtime needs at least 1 thread, not {self.threads}")

    @property
    def name(self) -> str:
        return "onnxruntime"

    def build(self, model: Network | nn.Module, inputs: Sequence[Any] | None = None) -> Session:
        """Export to a temporary file, and load it."""
        _, example = module_and_inputs(model, inputs)
        with tempfile.TemporaryDirectory(prefix="fxsparse-") as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(model, path, inputs=example, precision=self.precision)
            return Session(self, self._open(path), example, self.precision)

    def open(self, path: str | Path, inputs: Sequence[Any] | None = None, profile: str | None = None) -> Session:
        """Load an ONNX file; without inputs, random ones of its shapes, sizes that it leaves open being 1.

        With `profile`, the session writes a trace, whose name begins so, when profiling ends.
        """
        session = self._open(Path(path), profile)
        return Session(self, session, tuple(inputs) if inputs is not None else _example(session), _precision(Path(path)))

    def _open(self, path: Path, profile: str | None = None) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread takes nothing from other work
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            what = "is not there" if not path.exists() else f"cannot be loaded by ONNX Runtime: {str(error).splitlines()[0][:200]}"
            raise LoweringError(f"{path} {what}") from error


@dataclass(frozen=True)
class Session:
    """A network that is loaded in ONNX Runtime."""

    engine: OnnxRuntime
    session: onnxruntime.InferenceSession
    inputs: tuple[Any, ...]
    precision: str

    def run(self, *inputs: Any) -> list[Tensor]:
        given = inputs or self.inputs
        return [torch.from_numpy(np.asarray(each)) for each in self.session.run(None, self._feed(given))]

    def prepare(self, *inputs: Any) -> Callable[[], object]:
        feed = self._feed(inputs or self.inputs)
        names = [each.name for each in self.session.get_outputs()]
        return lambda: self.session.run(names, feed)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": self.session.get_providers()[0],
            "threads": self.engine.threads,
            "precision": self.precision,
            "inputs": [list(leaf.shape) for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor)],
        }

    def _feed(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        wanted = self.session.get_inputs()
        leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        require_like(leaves, [leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor)], batch_is_free=_dynamic(wanted))
        if len(leaves) != len(wanted):
            names = ", ".join(each.name for each in wanted)
            raise LoweringError(f"the file takes {len(wanted)} tensors ({names}), and got {len(leaves)}")
        return {each.name: leaf.detach().cpu().contiguous().numpy() for each, leaf in zip(wanted, leaves, strict=True)}


def _precision(path: Path) -> str:
    """That of the file's weights: fp16 where most of the numbers are."""
    counts: dict[int, int] = {}
    for each in onnx.load(path, load_external_data=False).graph.initializer:
        counts[each.data_type] = counts.get(each.data_type, 0) + math.prod(each.dims)
    return "fp16" if counts.get(onnx.TensorProto.FLOAT16, 0) > counts.get(onnx.TensorProto.FLOAT, 0) else "fp32"


def _dynamic(wanted: Any) -> bool:
    return any(each.shape and not isinstance(each.shape[0], int) for each in wanted)


def _example(session: onnxruntime.InferenceSession) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for each in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in each.shape]
        kind = TYPES.get(each.type)
        if kind is None:
            raise LoweringError(f"input {each.name!r} is a {each.type}; give the inputs yourself")
        floating = kind.is_floating_point
        made.append(torch.randn(shape, generator=generator).to(kind) if floating else torch.ones(shape, dtype=kind))
    return tuple(made)
