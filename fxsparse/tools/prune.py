"""`fxsparse prune`: a model goes in, with a plan, a budget or a pipeline; a proven smaller network comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fxsparse.criteria import criterion_names
from fxsparse.errors import PassError, PlanError
from fxsparse.passes import Pipeline, PrintBetween, Timing, VerifyEach
from fxsparse.passes.instrumentation import proved
from fxsparse.passes.prune import Prune
from fxsparse.tools.batches import BatchOption, DataOption, ImagesOption, SizeOption, sample
from fxsparse.tools.console import plain
from fxsparse.tools.options import EvalOnly, Json, Model, Saved, Shape, Threads, Weights, traced
from fxsparse.tools.outputs import require_room, write_network
from fxsparse.tools.progress import progress_bar

Budget = Annotated[
    str | None, typer.Option(metavar="0.5 | 2.5M", help="What to leave: a share of what there is now, or an absolute number.")
]
BUDGETS = ("macs", "parameters", "memory", "units", "latency")
WISHES = ("engine", "criterion", "scope", "align", "min_units", "max_ratio", "steps", "protect", "only")  # of budgets alone
WATCHED = ("data", "images", "batch", "size", "print_between", "time", "verify_each")  # of passes alone


def prune(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for structure.json, weights.safetensors, model.onnx and report.html.")],
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
    engine: Annotated[str | None, typer.Option(help="Where latency is measured, and what widths are aligned for.")] = None,
    criterion: Annotated[str, typer.Option(help=f"What is worth keeping: {', '.join(criterion_names())}.")] = "magnitude",
    scope: Annotated[
        str, typer.Option(help="Rank units over all groups, in each alike, or in like ones: global, local, isomorphic.")
    ] = "global",
    align: Annotated[
        str | None, typer.Option(help="Widths become multiples of this; auto, and nothing where --engine is given, ask the engine.")
    ] = None,
    min_units: Annotated[int, typer.Option(min=1, help="What each group keeps at least.")] = 1,
    max_ratio: Annotated[float, typer.Option(help="The share of its units that a group may lose.")] = 0.95,
    steps: Annotated[int, typer.Option(min=1, help="Reach the budget in so many steps, scoring anew in each.")] = 1,
    protect: Annotated[list[str] | None, typer.Option(help="A name pattern of groups or modules that stay whole; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A name pattern of the only groups that may change; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="For the random criterion, and for the images that are drawn.")] = 0,
    data: DataOption = None,
    images: ImagesOption = 2048,
    batch: BatchOption = 64,
    size: SizeOption = None,
    weights: Weights = None,
    saved: Saved = None,
    shape: Shape = None,
    eval_only: EvalOnly = False,
    prove: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the result in float64 before it is written.")] = True,
    verify_each: Annotated[bool, typer.Option("--verify-each", help="Prove the network after each pass, and show the proofs.")] = False,
    print_between: Annotated[bool, typer.Option("--print-between", help="Show the network after each pass.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Show the seconds of each pass.")] = False,
    journal: Annotated[bool, typer.Option("--journal", help="Save what is removed as well, so that it can be regrown later.")] = False,
    onnx: Annotated[
        bool | None, typer.Option("--onnx/--no-onnx", help="Write model.onnx as well; without either, where the network can be exported.")
    ] = None,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Make a model smaller: to a budget, by a plan, or by a pipeline of passes. The result is proved and saved.

    Examples:

      fxsparse prune torchvision:resnet50 --macs 0.5 --align 8 --out small/

      fxsparse prune torchvision:resnet50 --plan plan.json --out small/

      fxsparse prune fxsparse:resnet20 --weights r20.th --data cifar10/ --criterion taylor --macs 0.5 --out small/

      fxsparse prune timm:resnet18 --passes 'prune{parameters=0.4},fold-batch-norm' --time --out small/
    """
    said = context.params
    given: dict[str, Any] = {name: _number(said[name]) for name in BUDGETS if said[name] is not None}
    if len(given) + (plan is not None) + (pipeline is not None) != 1:
        raise typer.BadParameter("give one of --plan, --passes, --macs, --parameters, --memory, --units or --latency")
    if pipeline is not None:
        _no_use_of(context, WISHES, "--passes; write them into the text, as in prune{macs=0.5,align=8}")
        work = Pipeline.parse(pipeline)
    elif given:
        wishes: dict[str, Any] = {name: said[name] for name in WISHES}
        wishes |= {"align": _align(align), "protect": tuple(protect or ()), "only": tuple(only or ())}
        work = Pipeline((Prune(**given, **wishes, threads=threads or 1, seed=seed),))
    else:
        _no_use_of(context, (*WISHES, *WATCHED), "--plan, which names the units to keep and runs no pass")
    require_room(out)
    batches = sample(data, images, batch, seed, size)
    wanted = read_plan(plan) if plan is not None else None
    network = traced(model, weights, shape, threads, saved, check=prove, eval_only=eval_only)
    console = plain(stderr=as_json)
    timing, proofs = Timing(write=console.print), VerifyEach(write=console.print)
    notes: tuple[str, ...] = ()
    if wanted is not None:
        small = network.shrink(wanted)
    else:
        between = PrintBetween(console.print)
        chosen = ((print_between, between), (time, timing), (verify_each, proofs))
        watchers = tuple(watcher for asked, watcher in chosen if asked)
        with progress_bar("layers measured") as bar:
            done = work(network, watchers=watchers, data=batches, progress=bar)
        small, notes = done.network, done.notes
    if prove and not verify_each:
        proof = proved(network, small)
        proofs.proofs.extend([] if proof is None else [("", proof)])
    told = [proof for _, proof in proofs.proofs]
    lowered = pipeline is not None and "lower-onnx" in pipeline
    written = write_network(out, network, small, model=model, proofs=told, notes=notes, journal=journal, onnx=onnx, lowered=lowered)
    counts = {"parameters": [network.parameter_count, small.parameter_count], "macs": [network.macs, small.macs]}
    if as_json:
        result: dict[str, Any] = {
            "model": model,
            "out": str(out),
            "files": list(written.files),
            **counts,
            "max_error": max((proof.max_error for _, proof in proofs.proofs), default=None),
            "notes": [*notes, *written.notes],
            "provenance": list(small.provenance),
        }
        result |= {"seconds": [{"pass": text, "seconds": seconds} for text, seconds in timing.seconds]} if time else {}
        result |= {"proofs": [{"pass": text, "max_error": proof.max_error} for text, proof in proofs.proofs]} if verify_each else {}
        typer.echo(json.dumps(result, indent=1))
        return
    shown = [] if verify_each else [str(proof) for _, proof in proofs.proofs] or ["not asked for" if not prove else "no unit is missing"]
    _show(console, f"{out} ({', '.join(written.files)})", counts, (*(() if print_between else notes), *written.notes), shown)


def _no_use_of(context: typer.Context, names: tuple[str, ...], where: str) -> None:
    """Wrong usage, where an option would be passed over in silence."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} has no use beside {where}")


def _show(console: Console, where: str, counts: dict[str, list[int]], notes: tuple[str, ...], proofs: list[str]) -> None:
    for name, (before, after) in counts.items():
        console.print(f"{name}: {before:,} -> {after:,} ({after / before:.1%})")
    for line in (*notes, *(f"proof: {proof}" for proof in proofs), f"written: {where}"):
        console.print(line)


def _number(text: str) -> float | int | str:
    """What a budget option says: 0.5 and 1.0 are shares, 300000 is a number, 2.5M a text that the budget reads."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _align(text: str | None) -> int | str | None:
    if text is None or text == "auto":
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
