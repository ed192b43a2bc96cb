"""The pass `lower-onnx`: write the network as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fxsparse.engines.onnx_export import export_onnx
from fxsparse.errors import PassError
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class LowerOnnx(Pass):
    """Write the network as an ONNX file, and go on with it unchanged.

    Guarantees a file that the checker and shape inference accept, and whose outputs are those of the module, to 1e-4 in fp32. With
    `precision=fp16`, softmax and norms stay in fp32. With `dynamic_batch`, the first axis of every input is free.

    Example: `lower-onnx{path=out/model.onnx}`
    """

    name: ClassVar[str] = "lower-onnx"
    path: str = ""
    precision: Literal["fp32", "fp16"] = "fp32"
    dynamic_batch: bool = False
    opset: int | None = None

    def requires(self, network: Network, context: Context) -> None:
        if not self.path:
            raise PassError("lower-onnx needs a path, as in lower-onnx{path=model.onnx}")

    def run(self, network: Network, context: Context) -> PassResult:
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        report = export_onnx(network, self.path, precision=self.precision, dynamic_batch=self.dynamic_batch, opset=self.opset)
        operators = sum(report.operators.values())
        note = f"{report.path} written: {operators} operators, {report.bytes:,} bytes, outputs equal to {report.max_error:.1e}"
        return PassResult(network, False, (note,))
