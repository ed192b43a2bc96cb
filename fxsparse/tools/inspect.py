"""`fxsparse inspect`: what hangs together in a model, what each unit costs, what is protected and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fxsparse.channels.costs import network_macs, network_parameters
from fxsparse.channels.groups import Group
from fxsparse.channels.view import write
from fxsparse.network import Network
from fxsparse.report.graph_file import svg
from fxsparse.tools.console import plain
from fxsparse.tools.options import EvalOnly, Json, Model, Saved, Shape, Threads, Weights, traced
from fxsparse.tools.outputs import whole_file

POSITIONS = "works along k"  # protected kernel positions are no news


def inspect(
    model: Model,
    weights: Weights = None,
    saved: Saved = None,
    shape: Shape = None,
    eval_only: EvalOnly = False,
    graph: Annotated[
        Path | None, typer.Option("--graph", help="Write the groups as a graph: .graphml, .dot or .svg; .pdf and .png with Graphviz.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show protected kernel positions as well.")] = False,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Show which channels hang together, what a unit costs, and what is protected, with reasons.

    Examples:

      fxsparse inspect torchvision:resnet50 --graph resnet50.graphml

      fxsparse inspect torchvision:resnet50 --saved small/
    """
    network = traced(model, weights, shape, threads, saved, eval_only=eval_only)
    if graph is not None:
        with whole_file(graph) as draft:
            if graph.suffix.lower() == ".svg":
                draft.write_text(svg(model, network), encoding="utf-8")
            else:
                write(network.to_networkx(), draft)
    if as_json:
        typer.echo(json.dumps(summary(model, network), indent=1))
    else:
        show(model, network, everything)


def summary(model: str, network: Network) -> dict[str, Any]:
    """Everything that `inspect` knows, as plain data."""
    structure, prediction = network.origin.structure, network.prediction
    return {
        "model": model,
        "parameters": network_parameters(structure, prediction),
        "macs": network_macs(structure, prediction),
        "notes": list(network.notes),
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "units": len(group.units),
                "prunable": group.prunable,
                "reason": group.reason,
                "unit_parameters": group.cost.parameters,
                "unit_macs": group.cost.macs,
                "members": [{"tensor": m.tensor, "axis": m.axis, "role": m.role} for m in group.members],
            }
            for group in network.groups
        ],
    }


def show(model: str, network: Network, everything: bool) -> None:
    console = plain(soft_wrap=False)
    structure, prediction = network.origin.structure, network.prediction
    prunable = [group for group in network.groups if group.prunable]
    table = Table(title=f"{model}: {len(prunable)} groups that may lose units", title_justify="left")
    for name in ("group", "kind"):
        table.add_column(name, overflow="fold")
    for name in ("units", "parameters / unit", "MACs / unit", "tensors"):
        table.add_column(name, justify="right")
    for group in prunable:
        cost = group.cost
        table.add_row(group.name, group.kind, str(len(group.units)), f"{cost.parameters:,}", f"{cost.macs:,}", str(len(group.members)))
    console.print(table)
    console.print(_protected([g for g in network.groups if not g.prunable and (everything or not _is_position(g))]))
    console.print(
        f"{network_parameters(structure, prediction):,} parameters, {network_macs(structure, prediction):,} MACs on the example inputs; "
        f"{sum(len(g.units) for g in prunable):,} units may go."
    )
    for note in network.notes:
        console.print(f"note: {note}")


def _is_position(group: Group) -> bool:
    return POSITIONS in group.reason


def _protected(groups: list[Group]) -> Table:
    table = Table(title=f"{len(groups)} protected", title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("reason", overflow="fold")
    for group in groups:
        table.add_row(group.name, str(len(group.units)), group.reason)
    return table
