"""What `fxsparse bench` prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from fxsparse.engines import Timing
from fxsparse.engines.profile import LayerTime

SHOWN = 15  # layers of a profile on the screen; --json holds all


def show(console: Console, result: dict[str, Any], timed: dict[str, Timing]) -> None:
    about = result["engine"]
    precisions = ", ".join(dict.fromkeys(line["precision"] for line in result["contenders"]))
    threads = f"{about['threads']} thread{'s' if about['threads'] != 1 else ''}"
    table = Table(title=f"{about['engine']} {about['version']}, {threads}, {precisions}", title_justify="left")
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
            console.print(f"{name}: variation {timing.variation:.0%}; the machine is busy, measure again")
    first = result["contenders"][0]
    for line in result["contenders"]:
        if line["ratio"] and not line["ratio"]["told_apart"]:
            console.print(f"{line['name']} and {first['name']} cannot be told apart")
        if line["inputs"] != first["inputs"]:
            console.print(f"{line['name']} runs on {line['inputs']}, and {first['name']} on {first['inputs']}")


def layer_table(name: str, layers: tuple[LayerTime, ...]) -> Table:
    total = sum(layer.milliseconds for layer in layers)
    table = Table(title=f"{name}: {len(layers)} layers, {total:.3g} ms under the profiler", title_justify="left")
    for head in ("layer", "kind"):
        table.add_column(head, overflow="fold")
    for head in ("ms", "share", "MACs", "MACs per ns"):
        table.add_column(head, justify="right")
    costly = sorted(layers, key=lambda layer: -layer.milliseconds)
    for layer in costly[:SHOWN]:
        speed = f"{layer.macs / layer.milliseconds / 1e6:.1f}" if layer.macs and layer.milliseconds else ""
        share = f"{layer.milliseconds / total:.1%}" if total else ""
        table.add_row(layer.name, layer.kind, f"{layer.milliseconds:.3f}", share, f"{layer.macs:,}" if layer.macs else "", speed)
    rest = costly[SHOWN:]
    if rest:
        left = sum(layer.milliseconds for layer in rest)
        table.add_row(f"{len(rest)} others", "", f"{left:.3f}", f"{left / total:.1%}", f"{sum(layer.macs for layer in rest):,}", "")
    return table
