"""`fxsparse bench`: models, saved folders and ONNX files against each other on an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fxsparse.engines import Timing, compare, engine, ratio
from fxsparse.engines.base import Built, fresh_inputs
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.errors import LoweringError
from fxsparse.tools.options import Json, Shape, Weights, traced


def bench(
    contenders: Annotated[
        list[str], typer.Argument(metavar="A B ...", help="Model names, folders that fxsparse saved (with --model), or ONNX files.")
    ],
    model: Annotated[str | None, typer.Option("--model", help="The model that saved folders were made from.")] = None,
    engine_name: Annotated[str, typer.Option("--engine", help="onnxruntime, inductor or tensorrt.")] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the engine.")] = 1,
    weights: Weights = None,
    shape: Shape = None,
    runs: Annotated[int, typer.Option(min=2, help="Runs of each contender, at least.")] = 50,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds of each contender, at least.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Measure latency: warm, in turn, in one process; medians, spread, and ratios with their 95 % interval.

    Example: fxsparse bench torchvision:resnet50 small/ --model torchvision:resnet50
    """
    built = {name: _built(name, model, engine_name, threads, weights, shape) for name in contenders}
    timed = compare({name: _once(each) for name, each in built.items()}, runs=runs, seconds=seconds)
    first = contenders[0]
    result = {
        "engine": next(iter(built.values())).describe(),
        "contenders": [
            {"name": name, **timing.as_data(), "inputs": built[name].describe()["inputs"], "ratio": _ratio(timing, timed[first])}
            for name, timing in timed.items()
        ],
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        _show(result, timed)


def _built(name: str, model: str | None, engine_name: str, threads: int, weights: Path | None, shape: str | None) -> Built:
    runtime = engine(engine_name, threads=threads)
    if name.endswith(".onnx"):
        if not isinstance(runtime, OnnxRuntime):
            raise LoweringError(f"{name} is an ONNX file, which onnxruntime runs, not {engine_name}; use --engine onnxruntime")
        return runtime.open(name)
    if Path(name).is_dir():
        if model is None:
            raise LoweringError(f"{name} is a saved folder; say which model it was made from, as in --model torchvision:resnet50")
        return runtime.build(traced(model, weights, shape, None, Path(name)))
    return runtime.build(traced(name, weights, shape, None))


def _once(built: Built) -> Callable[[], object]:
    return built.prepare(*fresh_inputs(built.inputs))


def _ratio(timing: Timing, first: Timing) -> dict[str, Any] | None:
    if timing is first:
        return None
    found = ratio(timing, first)
    return {"value": found.value, "low": found.low, "high": found.high, "told_apart": found.told_apart}


def _show(result: dict[str, Any], timed: dict[str, Timing]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    about = result["engine"]
    table = Table(title=f"{about['engine']} {about['version']}, {about['threads']} threads, {about['precision']}", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ("median ms", "p90", "p99", "variation", "ratio to the first (95 %)"):
        table.add_column(name, justify="right")
    for line in result["contenders"]:
        found = line["ratio"]
        said = "" if found is None else f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
        numbers = [f"{line[key]:.3g}" for key in ("median_ms", "p90_ms", "p99_ms")]
        table.add_row(line["name"], *numbers, f"{line['variation']:.1%}", said)
    console.print(table)
    for name, timing in timed.items():
        if timing.noisy:
            console.print(f"{name}: variation {timing.variation:.0%}; the machine is busy, measure again", markup=False)
    for line in result["contenders"]:
        if line["ratio"] and not line["ratio"]["told_apart"]:
            console.print(f"{line['name']} and {result['contenders'][0]['name']} cannot be told apart", markup=False)
