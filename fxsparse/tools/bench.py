"""`fxsparse bench`: models, saved folders and ONNX files against each other on an engine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fxsparse.engines import Timing, compare, ratio
from fxsparse.engines.base import fresh_inputs
from fxsparse.engines.explain import Explained, explain, summary
from fxsparse.engines.profile import LayerTime
from fxsparse.tools.bench_tables import layer_table, show
from fxsparse.tools.console import plain
from fxsparse.tools.contenders import Contender, Wish, contenders_of, engine_step, require_profile
from fxsparse.tools.options import Json, Shape, Weights


def bench(
    contenders: Annotated[
        list[str], typer.Argument(metavar="A B ...", help="Model names, folders that fxsparse saved (with --model), or ONNX files.")
    ],
    model: Annotated[str | None, typer.Option("--model", help="The model that saved folders were made from.")] = None,
    engine_name: Annotated[str, typer.Option("--engine", help="onnxruntime, inductor or tensorrt.")] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the engine.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or fp16 (inductor: bf16, too). An ONNX file has its own.")] = "fp32",
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs at once, instead of the example input's number.")] = None,
    weights: Weights = None,
    shape: Shape = None,
    runs: Annotated[int, typer.Option(min=2, help="Runs of each contender, at least.")] = 50,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds of each contender, at least.")] = 1.0,
    profiled: Annotated[bool, typer.Option("--profile", help="Afterwards, the time of each layer, in a run of its own.")] = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Afterwards, why layers did not get as much faster than the first's as they got smaller.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure latency: warm, in turn, in one process; medians, spread, and ratios with their 95 % interval.

    Examples:

      fxsparse bench torchvision:resnet50 small/ --model torchvision:resnet50 --batch 1

      fxsparse bench dense.onnx small.onnx --threads 2 --explain
    """
    if explained and len(contenders) < 2:
        raise typer.BadParameter("--explain compares with the first contender; give a second one", param_hint="--explain")
    if profiled or explained:
        require_profile(engine_name, macs=explained)
    built = contenders_of(contenders, Wish(engine_name, threads, precision, model, weights, shape, batch))
    timed = compare({each.name: each.built.prepare(*fresh_inputs(each.built.inputs)) for each in built}, runs=runs, seconds=seconds)
    layers = {each.name: each.profile() for each in built} if profiled or explained else {}
    step = engine_step(built[0].engine) if explained else 1
    reasons = {each.name: explain(layers[built[0].name], layers[each.name], step, each.masked) for each in built[1:]} if explained else {}
    result = {"engine": _engine(built), "contenders": [_line(each, timed, built[0], layers if profiled else {}, reasons) for each in built]}
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    console = plain()
    show(console, result, timed)
    for name, lines in layers.items() if profiled else ():
        console.print(layer_table(name, lines))
    for name, said in reasons.items():
        console.print(f"{name} against {built[0].name}, widths in steps of {step}:\n{summary(said)}")


def _engine(built: list[Contender]) -> dict[str, Any]:
    """What all of them share; shapes and precisions stand with each."""
    return {key: value for key, value in built[0].built.describe().items() if key != "inputs"}


def _line(
    each: Contender,
    timed: dict[str, Timing],
    first: Contender,
    layers: dict[str, tuple[LayerTime, ...]],
    reasons: dict[str, tuple[Explained, ...]],
) -> dict[str, Any]:
    about = each.built.describe()
    line = {"name": each.name, **timed[each.name].as_data(), "inputs": about["inputs"], "precision": about["precision"]}
    line["ratio"] = None if each is first else _ratio(timed[each.name], timed[first.name])
    if each.name in layers:
        line["layers"] = [layer.as_data() for layer in layers[each.name]]
    if each.name in reasons:
        line["explained"] = [found.as_data() for found in reasons[each.name]]
    return line


def _ratio(timing: Timing, first: Timing) -> dict[str, Any]:
    found = ratio(timing, first)
    return {"value": found.value, "low": found.low, "high": found.high, "told_apart": found.told_apart}
