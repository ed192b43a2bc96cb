"""Runs side by side: a table of their measures, and accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fxsparse.report.charts import Point, scatter, short
from fxsparse.report.run import MEASURES, NEARLY, Run

AXES = {"latency_ms": "latency (ms)", "macs": "MACs", "parameters": "parameters", "nonzeros": "weights not zero", "bytes": "size (bytes)"}


@dataclass(frozen=True)
class Cell:
    text: str
    part: str


@dataclass(frozen=True)
class Row:
    """A network; hollow when it is only known as what another was made from."""

    name: str
    series: int
    hollow: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def parts(self) -> bool:
        return any(cell.part for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class _Network:
    name: str
    measures: dict[str, float]
    series: int
    hollow: bool


def compared(runs: Sequence[Run]) -> Comparison:
    """The table; parts are those of the first network that has the measure."""
    networks = _networks(runs)
    keys = [key for key in MEASURES if any(key in each.measures for each in networks) and not (key == "nonzeros" and _dense(networks))]
    rows = []
    for each in networks:
        cells = []
        for key in keys:
            value, first = each.measures.get(key), networks[0].measures.get(key)
            relative = each is not networks[0] and MEASURES[key][1]
            part = f"{100 * value / first:.0f}%" if relative and value is not None and first else ""
            cells.append(Cell("" if value is None else written(key, value), part))
        rows.append(Row(each.name, each.series, each.hollow, tuple(cells)))
    return Comparison(tuple(MEASURES[key][0] for key in keys), tuple(rows))


def tradeoffs(runs: Sequence[Run]) -> list[Markup]:
    """Accuracy against each cost that at least two networks are known by."""
    charts = []
    networks = _networks(runs)
    for key, heading in AXES.items():
        if key == "nonzeros" and _dense(networks):
            continue
        both = [each for each in networks if key in each.measures and "accuracy" in each.measures]
        if len({each.measures[key] for each in both}) > 1:
            points = [Point(e.name, e.measures[key], e.measures["accuracy"], e.series, e.hollow) for e in both]
            charts.append(scatter(points, x=heading, y="accuracy", title=f"accuracy against {MEASURES[key][0]}", percent=True))
    return charts


def written(key: str, value: float) -> str:
    """A measure as a reader likes it."""
    if key == "accuracy":
        return f"{100 * value:.2f}%"
    if key == "latency_ms":
        return f"{value:.3g} ms"
    return short(value) + ("B" if key == "bytes" else "")


def _dense(networks: Sequence[_Network]) -> bool:
    """Whether the count of weights that are not zero says no more than the count of parameters."""
    told = [each.measures for each in networks if "nonzeros" in each.measures]
    return all(measures["nonzeros"] >= NEARLY * measures.get("parameters", 0) for measures in told)


def _networks(runs: Sequence[Run]) -> list[_Network]:
    """All runs, and before them the networks that they were made from, where these are no runs themselves."""
    origins: dict[tuple[tuple[str, float], ...], str] = {}
    for run in runs:
        known = any(run.before.items() <= other.measures.items() for other in runs)
        if run.before and not known:
            origins.setdefault(tuple(sorted(run.before.items())), f"before {run.name}")
    found = [_Network(name, dict(measures), index, True) for index, (measures, name) in enumerate(origins.items())]
    return [*found, *(_Network(run.name, run.measures, (len(found) + i) % 6, False) for i, run in enumerate(runs))]
