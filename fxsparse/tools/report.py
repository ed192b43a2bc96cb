"""`fxsparse report`: saved folders, training runs and measurements as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fxsparse.models import build_alone
from fxsparse.report import Sources, read_sources, write_page
from fxsparse.report.run import finite
from fxsparse.tools.console import plain
from fxsparse.tools.options import Json
from fxsparse.tools.outputs import command_line, whole_file


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER ...",
            help="Folders that prune, train or calibrate wrote; files with what bench --json printed.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    model: Annotated[
        str | None, typer.Option("--model", help="The model that saved folders were made from, where they have no report.json.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="What stands above the page.")] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file, which loads nothing: widths, the group graph, trade-offs, training, proofs, and how to repeat it.

    Examples:

      fxsparse report small/ --out report.html

      fxsparse report run/ small/ fast/ bench.json --title 'ResNet-50 on our camera'
    """
    found = read_sources(sources, None if model is None else build_alone(model))
    names = ", ".join(run.name for run in found.runs)
    typed = command_line()
    with whole_file(out) as draft:
        write_page(found, draft, title=title or f"fxsparse: {names}", commands=() if typed is None else (typed,))
    if as_json:
        typer.echo(json.dumps(summary(out, found), indent=1, allow_nan=False))
        return
    console = plain()
    for run in found.runs:
        changed = sum(group.changed for group in run.groups)
        parts = [f"{changed} of {len(run.groups)} groups changed"] * bool(run.groups) + [f"{len(run.epochs)} epochs"] * bool(run.epochs)
        parts += [f"{len(run.densities)} tensors with zeros"] * bool(run.densities)
        console.print(f"{run.name}: {', '.join(parts) or 'measures alone'}")
    console.print(f"written: {out} ({out.stat().st_size:,} bytes)")


def summary(out: Path, found: Sources) -> dict[str, object]:
    """What the page tells, as plain data."""
    runs = [
        {
            "name": run.name,
            "model": run.model,
            "measures": run.measures,
            "widths": {group.name: [group.before, group.after] for group in run.groups if group.changed},
            "epochs": len(run.epochs),
            "proofs": run.proofs,
        }
        for run in found.runs
    ]
    said: dict[str, object] = finite({"out": str(out), "runs": runs, "benches": [bench.where for bench in found.benches]})
    return said
