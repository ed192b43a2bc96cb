"""`fxsparse export`: a model, or a saved folder, as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fxsparse.engines import export_onnx
from fxsparse.tools.console import plain
from fxsparse.tools.options import Json, Model, Saved, Shape, Threads, Weights, traced
from fxsparse.tools.outputs import whole


def export(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="The file to write, such as model.onnx.")],
    saved: Saved = None,
    weights: Weights = None,
    shape: Shape = None,
    precision: Annotated[str, typer.Option(help="fp32, or fp16 with softmax and norms in fp32.")] = "fp32",
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Leave the first axis of every input free.")] = False,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Write a model as ONNX: checked, and compared with the module, before the file is there.

    Example: fxsparse export torchvision:resnet50 --saved small/ --out small.onnx
    """
    with whole(out.parent):  # a folder that was not there stays away if the work fails
        network = traced(model, weights, shape, threads, saved)
        report = export_onnx(network, out, precision=precision, dynamic_batch=dynamic_batch)  # type: ignore[arg-type]
    if as_json:
        said = {"path": str(report.path), "bytes": report.bytes, "max_error": report.max_error, "precision": report.precision}
        typer.echo(
            json.dumps({**said, "inputs": list(report.inputs), "outputs": list(report.outputs), "operators": report.operators}, indent=1)
        )
        return
    console = plain()
    console.print(f"{sum(report.operators.values())} operators: " + ", ".join(f"{n} {name}" for name, n in report.operators.items()))
    console.print(f"outputs equal to the module's, to {report.max_error:.1e} of the largest")
    console.print(f"written: {report.path} ({report.bytes:,} bytes)")
