"""`fxsparse prune`: a model goes in, with a plan, a budget or a pipeline; a proven smaller network comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fxsparse.criteria import criterion_names
from fxsparse.errors import PassError, PlanError
from fxsparse.passes import Pipeline, PrintBetween, VerifyEach
from fxsparse.passes.prune import Prune
from fxsparse.saving import save
from fxsparse.surgery.verify import verify
from fxsparse.tools.options import Json, Model, Shape, Threads, Weights, traced

Budget = Annotated[
    str | None, typer.Option(metavar="0.5 | 2.5M", help="What to leave: a share of what there is now, or an absolute number.")
]


def prune(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for structure.json and weights.safetensors.")],
    plan: Annotated[
        Path | None, typer.Option("--plan", help='A JSON file: {"group name": [unit numbers to keep], ...}; instead of a budget.')
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option("--passes", metavar="TEXT", help="A pipeline: 'prune{macs=0.5},fold-batch-norm'."),
    ] = None,
    macs: Budget = None,
    parameters: Annotated[str | None, typer.Option("--parameters", "--params", metavar="0.5 | 2.5M", help="Likewise.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="0.5 | 20MB", help="Likewise, in bytes of weights and live activations.")] = None,
    units: Annotated[str | None, typer.Option(metavar="0.5", help="Likewise, in channels and heads.")] = None,
    latency: Annotated[str | None, typer.Option(metavar="0.5 | 3.2ms", help="Likewise, in measured time on --engine.")] = None,
    engine: Annotated[str | None, typer.Option(help="Where latency is measured, and what align=auto is for.")] = None,
    criterion: Annotated[str, typer.Option(help=f"What is worth keeping: {', '.join(criterion_names())}.")] = "magnitude",
    scope: Annotated[
        str, typer.Option(help="Rank units over all groups, in each alike, or in like ones: global, local, isomorphic.")
    ] = "global",
    align: Annotated[str, typer.Option(help="Widths become multiples of this; auto asks the engine.")] = "1",
    min_units: Annotated[int, typer.Option(min=1, help="What each group keeps at least.")] = 1,
    protect: Annotated[list[str] | None, typer.Option(help="A name pattern of groups or modules that stay whole; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A name pattern of the only groups that may change; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="For the random criterion.")] = 0,
    weights: Weights = None,
    shape: Shape = None,
    prove: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the result in float64 before it is written.")] = True,
    journal: Annotated[bool, typer.Option("--journal", help="Save what is removed as well, so that it can be regrown later.")] = False,
    print_between: Annotated[bool, typer.Option("--print-between", help="Show the network after each pass.")] = False,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Make a model smaller: to a budget, by a plan, or by a pipeline of passes. The result is proved and saved.

    Examples:

      fxsparse prune torchvision:resnet50 --macs 0.5 --align 8 --out small/

      fxsparse prune torchvision:resnet50 --plan plan.json --out small/

      fxsparse prune timm:resnet18 --passes 'prune{parameters=0.4},fold-batch-norm' --out small/
    """
    budgets = {"macs": macs, "parameters": parameters, "memory": memory, "units": units, "latency": latency}
    given: dict[str, Any] = {name: _number(text) for name, text in budgets.items() if text is not None}
    if len(given) + (plan is not None) + (pipeline is not None) != 1:
        raise typer.BadParameter("give one of --plan, --passes, --macs, --parameters, --memory, --units or --latency")
    if pipeline is not None:
        work = Pipeline.parse(pipeline)
    elif given:
        options: dict[str, Any] = {
            "criterion": criterion,
            "scope": scope,
            "align": _align(align),
            "min_units": min_units,
            "protect": tuple(protect or ()),
            "only": tuple(only or ()),
            "engine": engine,
            "threads": threads or 1,
            "seed": seed,
        }
        work = Pipeline((Prune(**given, **options),))
    wanted = read_plan(plan) if plan is not None else None
    network = traced(model, weights, shape, threads)
    console = Console(highlight=False, soft_wrap=True, stderr=as_json)
    watch = VerifyEach()
    if wanted is not None:
        small = network.shrink(wanted)
        notes: tuple[str, ...] = ()
        proofs = [verify(network, small)] if prove else []
    else:
        watchers = (*((PrintBetween(console.print),) if print_between else ()), *((watch,) if prove else ()))
        done = work(network, watchers=watchers)
        small, notes = done.network, done.notes
        proofs = [proof for _, proof in watch.proofs]
    save(small, out, journal=journal)
    counts = {"parameters": [network.parameter_count, small.parameter_count], "macs": [network.macs, small.macs]}
    result = {
        "model": model,
        "out": str(out),
        **counts,
        "max_error": max((proof.max_error for proof in proofs), default=None),
        "notes": list(notes),
        "provenance": list(small.provenance),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        _show(console, out, counts, notes, [str(proof) for proof in proofs])


def _show(console: Console, out: Path, counts: dict[str, list[int]], notes: tuple[str, ...], proofs: list[str]) -> None:
    for name, (before, after) in counts.items():
        console.print(f"{name}: {before:,} -> {after:,} ({after / before:.1%})")
    for note in notes:
        console.print(note, markup=False)
    for proof in proofs or ["not asked for, or no width changed"]:
        console.print(f"proof: {proof}")
    console.print(f"written: {out}", markup=False)


def _number(text: str) -> float | int | str:
    """What a budget option says: 0.5 and 1.0 are shares, 300000 is a number, 2.5M a text that the budget reads."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _align(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise PassError(f"align is a whole number or auto, not {text!r}") from None


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
