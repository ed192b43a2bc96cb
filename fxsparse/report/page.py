"""The page: one HTML file that loads nothing, from the data of its runs."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fxsparse.report.charts import Line, line_chart
from fxsparse.report.compare import Comparison, compared, tradeoffs
from fxsparse.report.graph import Drawing, drawn, layer_of
from fxsparse.report.metrics import exchange, living, stages
from fxsparse.report.run import GroupLine, LayerLine, Run, finite
from fxsparse.report.sources import Sources
from fxsparse.version import __version__

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("fxsparse.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=False,
)
TIMES = " \N{MULTIPLICATION SIGN} "
MOST_ROWS = 4000  # a drawing of more layers or groups would be slow to open


@dataclass(frozen=True)
class Section:
    """What the page shows of one run."""

    id: str
    series: int
    run: Run
    graph: Markup
    data: Markup
    names: tuple[str, ...]
    timeline: tuple[Markup, ...]

    @property
    def changed(self) -> list[GroupLine]:
        return [group for group in self.run.groups if group.changed]

    @property
    def narrowed(self) -> list[LayerLine]:
        return [layer for layer in self.run.layers if layer.before != layer.after or layer.parameters_before != layer.parameters_after]

    def length(self, group: GroupLine) -> float:
        """Of a group's bar, in percent: by the root of its width, so that three heads are seen beside three thousand channels."""
        widest = max(max(each.before, each.after) for each in self.changed)
        return 100 * math.sqrt(max(group.before, group.after) / max(1, widest))

    def bars(self, group: GroupLine) -> tuple[str, str]:
        """The bars before and after, which share one scale."""
        unit = self.length(group) / max(1, group.before, group.after)
        return f"{unit * group.before:.1f}", f"{unit * group.after:.1f}"

    def part(self, layer: LayerLine) -> str:
        return f"{min(100.0, 100 * layer.parameters_after / max(1, layer.parameters_before)):.1f}"


def render(sources: Sources, *, title: str = "fxsparse report", commands: Sequence[str] = ()) -> str:
    """The page as text."""
    comparison: Comparison = compared(sources.runs)
    series = {row.name: row.series for row in comparison.rows}
    sections = [_section(f"run-{i}", series.get(run.name, 0), run) for i, run in enumerate(sources.runs, 1) if _tells(run)]
    script, style = (Markup(_file(name)) for name in ("page.js", "page.css"))  # our own text: nothing of the user's is in it
    return ENVIRONMENT.get_template("page.html").render(
        title=title,
        version=__version__,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        comparison=comparison,
        tradeoffs=tradeoffs(sources.runs),
        benches=sources.benches,
        sections=sections,
        commands=list(commands),
    )


def write_page(sources: Sources, path: Path, *, title: str = "fxsparse report", commands: Sequence[str] = ()) -> None:
    """Write the page; who opens the file meanwhile finds the old one, whole."""
    text = render(sources, title=title, commands=commands)
    half = path.with_name(f".{path.name}.writing")
    try:
        half.write_text(text, encoding="utf-8")
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def embedded(value: Any) -> Markup:
    """JSON that can stand in a script element: no character in it can end the element or begin a comment."""
    text = json.dumps(finite(value), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _tells(run: Run) -> bool:
    """Whether there is more to say of a run than its line in the comparison."""
    return bool(run.groups or run.layers or run.densities or run.epochs or run.notes or run.command or run.provenance or run.proofs)


def _section(name: str, series: int, run: Run) -> Section:
    drawing = drawn(run.groups, (layer.name for layer in run.layers))
    if not drawing.rows or len(drawing.rows) + len(drawing.lanes) > MOST_ROWS:
        return Section(name, series, run, Markup(""), Markup(""), (), _timeline(run))
    graph = Markup(ENVIRONMENT.get_template("graph.svg").render(drawing=drawing))
    names = tuple(dict.fromkeys((*(group.name for group in run.groups), *(row.name for row in drawing.rows))))
    return Section(name, series, run, graph, embedded(_data(run, drawing)), names, _timeline(run))


def _data(run: Run, drawing: Drawing) -> dict[str, Any]:
    """What the script shows when something is chosen."""
    row_of = {row.name: index for index, row in enumerate(drawing.rows)}
    layers = {layer.name: layer for layer in run.layers}
    groups = [
        {
            "name": group.name, "kind": group.kind, "before": group.before, "after": group.after, "prunable": group.prunable,
            "reason": group.reason, "unit_parameters": group.unit_parameters, "unit_macs": group.unit_macs,
            "members": [[m.tensor, m.axis, m.role, row_of[layer_of(m.tensor)]] for m in group.members],
        }
        for group in run.groups
    ]  # fmt: skip
    return {"groups": groups, "rows": [{"name": r.name, "groups": r.groups, "about": _about(layers.get(r.name))} for r in drawing.rows]}


def _about(layer: LayerLine | None) -> list[str]:
    if layer is None:
        return []
    shapes = [TIMES.join(map(str, shape)) or "none" for shape in (layer.before, layer.after)]
    said = [f"{layer.kind or 'module'}, {layer.tensor.rpartition('.')[2]} {' → '.join(dict.fromkeys(shapes))}"]
    counts = [f"{count:,}" for count in dict.fromkeys((layer.parameters_before, layer.parameters_after))]
    return [*said, f"{' → '.join(counts)} parameters"]


def _timeline(run: Run) -> tuple[Markup, ...]:
    charts = []
    reported = next((str(line["reported"]) for line in run.epochs if line.get("reported")), "test")
    wanted = (
        ("accuracy", True, (("train_accuracy", "training"), ("accuracy", reported))),
        ("loss", False, (("loss", "training"), ("test_loss", reported))),
        ("weights not zero", False, (("nonzeros", "weights not zero"),)),
    )
    for heading, percent, keys in wanted:
        lines = [Line(name, _series(run, key), series) for series, (key, name) in enumerate(keys)]
        if heading == "weights not zero" and len({value for line in lines for _, value in line.points}) < 2:
            continue  # a density that never changes needs no picture
        charts.append(line_chart([line for line in lines if line.points], x="epoch", y=heading, title=heading, percent=percent))
    if run.timeline is not None:
        bands = stages(run.timeline)
        shaded = "; shaded: estimating (yellow), exploring (green)" if bands else ""
        charts.append(line_chart([living(run.timeline)], x="step", y="living", title=f"what lives{shaded}", bands=bands))
        changes = exchange(run.timeline)
        charts.append(line_chart([], x="step", y="changed", title="what came and went", bands=bands, bars=changes))
    return tuple(chart for chart in charts if chart)


def _series(run: Run, key: str) -> list[tuple[float, float]]:
    """What the epochs say of one thing."""
    told = [(line.get("epoch", i), line.get(key)) for i, line in enumerate(run.epochs, 1)]
    return [(float(epoch), float(value)) for epoch, value in told if isinstance(value, int | float) and isinstance(epoch, int | float)]


def _file(name: str) -> str:
    assert ENVIRONMENT.loader is not None
    return ENVIRONMENT.loader.get_source(ENVIRONMENT, name)[0]
