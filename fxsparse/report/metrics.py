"""What a training run leaves beside its weights: the lines of its epochs, its result, its timeline."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxsparse.errors import CheckpointError
from fxsparse.report.charts import Band, Bars, Line
from fxsparse.report.run import read_json

FINAL = ("accuracy", "parameters", "nonzeros")  # of result.json


def epochs_of(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines of metrics.jsonl. A last line that was cut off in the middle is left out: a run that was killed goes on from before it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    found = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("it is no table")
        except ValueError as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{path}, line {number} is damaged: {error}") from error
        found.append({str(key): value for key, value in line.items() if _plain(value)})
    return tuple(found)


def _plain(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def finished(path: Path) -> dict[str, float]:
    """The measures of a result.json."""
    said = read_json(path)
    if not isinstance(said, Mapping):
        raise CheckpointError(f"{path} is no result of a run")
    return {name: float(said[name]) for name in FINAL if isinstance(said.get(name), int | float) and math.isfinite(said[name])}


def timeline_of(path: Path) -> dict[str, Any]:
    """What a timeline.json says: events, and the stages between them."""
    return checked_timeline(read_json(path), path)


def checked_timeline(said: Any, path: Path) -> dict[str, Any]:
    """The timeline that a file holds, if it is one."""
    try:
        for event in said["events"]:
            assert isinstance(event["kind"], str) and isinstance(event["changes"], dict)
            _number(event["step"])
            for change in event["changes"].values():
                _number(change["living"])
        for stage, first, last in said["spans"]:
            assert isinstance(stage, str)
            _number(first)
            _number(last)
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise CheckpointError(f"{path} is no timeline of a run: {error or type(error).__name__}") from error
    return {"events": said["events"], "spans": said["spans"]}


def _number(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")


def living(timeline: Mapping[str, Any]) -> Line:
    """What lives, over the steps."""
    points = [(float(event["step"]), float(_total(event, "living"))) for event in timeline["events"]]
    end = max([last for _, _, last in timeline["spans"]], default=0)
    if points and end > points[-1][0]:
        points.append((float(end), points[-1][1]))
    return Line("living", points, 0, stepped=True)


def exchange(timeline: Mapping[str, Any]) -> list[Bars]:
    """What each change brought, upwards, and dropped, downwards; and how much of it was regret."""
    events = [event for event in timeline["events"] if event["kind"] != "start"]
    kinds = (("grown", 1, 1), ("lived before", 1, 2), ("dropped", -1, 3), ("grown just before", -1, 4))
    keys = {"lived before": "returned", "grown just before": "regretted"}
    return [Bars(name, [(float(e["step"]), float(sign * _total(e, keys.get(name, name)))) for e in events], s) for name, sign, s in kinds]


def stages(timeline: Mapping[str, Any]) -> list[Band]:
    return [Band(str(stage), float(first) - 1, float(last)) for stage, first, last in timeline["spans"] if stage in ("estimate", "explore")]


def _total(event: Mapping[str, Any], what: str) -> int:
    found = [change.get(what, 0) for change in event["changes"].values()]
    return sum(value for value in found if isinstance(value, int))
