"""A run's timeline as a picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from fxsparse.errors import Error
from fxsparse.training.iee.timeline import Timeline

COLOURS = {"estimate": "#fdf2cc", "explore": "#cfe8d5"}


def plot(timeline: Timeline, path: str | Path) -> None:
    """Draw what lives over the steps, what each change dropped and brought, and how much of it was regret. The ending of `path` says the
    format (svg, png, pdf)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Error("a plot needs matplotlib; pip install 'fxsparse[report]'") from error
    if not timeline.events:
        raise Error("the timeline has no event yet, so there is nothing to draw")
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, 1, sharex=True)
    _living(axes[0], timeline)
    _exchange(axes[1], timeline)
    for axis in axes:
        for stage, first, last in timeline.spans:
            if stage in COLOURS:
                axis.axvspan(first - 1, last, color=COLOURS[stage], linewidth=0, zorder=0)  # behind the bars
    axes[0].set_title("living; shaded: estimation (yellow), exploration (green)", fontsize="medium")
    axes[1].set_xlabel("step")
    figure.savefig(str(path))


def _living(axis: Any, timeline: Timeline) -> None:
    steps = [event.step for event in timeline.events]
    end = max([steps[-1], *(last for _, _, last in timeline.spans)])
    living = [event.total("living") for event in timeline.events]
    axis.step([*steps, end], [*living, living[-1]], where="post", color="black")
    axis.set_ylabel("living")


def _exchange(axis: Any, timeline: Timeline) -> None:
    events = [event for event in timeline.events if event.kind != "start"]
    steps = [event.step for event in events]
    gaps = [b - a for a, b in pairwise(steps) if b > a]
    width = 0.8 * min(gaps, default=1)
    grown = [event.total("grown") for event in events]
    axis.bar(steps, grown, width, color="#a5c8f0", label="grown")
    axis.bar(steps, [event.total("returned") for event in events], width, color="#3b6fb5", label="of these, lived before")
    axis.bar(steps, [-event.total("dropped") for event in events], width, color="#f2b8a0", label="dropped")
    axis.bar(steps, [-event.total("regretted") for event in events], width, color="#b5432c", label="of these, grown just before")
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_ylabel("changed")
    axis.legend(fontsize="small")
