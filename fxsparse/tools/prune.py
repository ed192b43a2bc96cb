"""`fxsparse prune`: a model and a plan go in, a proven smaller network comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fxsparse.axes.predict import Prediction
from fxsparse.channels.costs import network_macs, network_parameters
from fxsparse.channels.groups import Structure
from fxsparse.errors import PlanError
from fxsparse.network import Network
from fxsparse.saving import save
from fxsparse.surgery.verify import verify
from fxsparse.tools.options import Json, Model, Shape, Threads, Weights, traced


def prune(
    model: Model,
    plan: Annotated[Path, typer.Option("--plan", help='A JSON file: {"group name": [unit numbers to keep], ...}.')],
    out: Annotated[Path, typer.Option("--out", help="Folder for structure.json and weights.safetensors.")],
    weights: Weights = None,
    shape: Shape = None,
    prove: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the result in float64 before it is written.")] = True,
    journal: Annotated[bool, typer.Option("--journal", help="Save what is removed as well, so that it can be regrown later.")] = False,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Keep the units that a plan names, prove the result and save it. Groups that the plan does not name stay whole.

    Example: fxsparse prune torchvision:resnet50 --plan plan.json --out small/
    """
    wanted = read_plan(plan)
    network = traced(model, weights, shape, threads)
    small = network.shrink(wanted)
    proof = verify(network, small) if prove else None
    save(small, out, journal=journal)
    counts = {name: _before_after(count, network, small) for name, count in (("parameters", network_parameters), ("macs", network_macs))}
    result = {
        "model": model,
        "out": str(out),
        **counts,
        "max_error": None if proof is None else proof.max_error,
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    console = Console(highlight=False)
    for name, (before, after) in counts.items():
        console.print(f"{name}: {before:,} -> {after:,} ({after / before:.1%})")
    console.print(f"proof: {proof}" if proof is not None else "proof: not asked for")
    console.print(f"written: {out}", markup=False)


def _before_after(count: Callable[[Structure, Prediction], int], *networks: Network) -> list[int]:
    return [count(each.origin.structure, each.prediction) for each in networks]


def read_plan(path: Path) -> dict[str, list[int]]:
    """A plan from a JSON file."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"the plan {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PlanError(f"the plan {path} is no JSON: {error}") from error
    if not isinstance(plan, dict) or not all(isinstance(units, list) for units in plan.values()):
        raise PlanError(f'the plan {path} should look like {{"layer1.0.conv1": [0, 3, 4]}}')
    return plan
