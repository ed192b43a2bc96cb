"""The story of a run: what it says, that it survives JSON, and that it can be drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fxsparse.errors import Error
from fxsparse.training.iee import Calendar, Change, Event, Timeline, plot
from fxsparse.training.iee.calendar import calendar_of
from fxsparse.training.iee.counts import share_of_cycle, within
from fxsparse.training.iee.timeline import Memory


def story() -> Timeline:
    memory = Memory({"w": torch.tensor([True, True, False, False, False])})
    masks = [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0]]
    timeline = Timeline(spans=(("estimate", 1, 2), ("exploit", 3, 6), ("explore", 7, 8), ("estimate", 9, 10), ("exploit", 11, 20)))
    timeline.add(Event(0, 0, "start", {"w": Change(2)}))
    for old, new, step, cycle, kind in zip(masks, masks[1:], (2, 8, 10), (0, 0, 1), ("prune", "grow", "prune"), strict=False):
        before, after = {"w": torch.tensor(old).bool()}, {"w": torch.tensor(new).bool()}
        timeline.add(Event(step, cycle, kind, memory.changes(before, after), 0.5 if kind == "grow" else None))  # type: ignore[arg-type]
    return timeline


def test_what_returned_and_what_was_regretted() -> None:
    rows = list(story().rows())
    assert [(r["living"], r["dropped"], r["grown"], r["returned"], r["regretted"]) for r in rows] == [
        (2, 0, 0, 0, 0),
        (1, 1, 0, 0, 0),
        (3, 0, 2, 1, 0),  # of the two that grow, one lived before
        (1, 2, 0, 0, 1),  # of the two that go, one had just come
    ]
    assert story().regret == 0.5


def test_a_timeline_survives_json() -> None:
    assert Timeline.from_dict(json.loads(json.dumps(story().to_dict()))) == story()


def test_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(story(), tmp_path / "story.svg")
    drawn = (tmp_path / "story.svg").read_text()
    assert "<svg" in drawn
    assert drawn.rindex("#cfe8d5") < drawn.index("#a5c8f0")  # stages are shaded behind the bars of what was grown
    with pytest.raises(Error, match="nothing to draw"):
        plot(Timeline(), tmp_path / "none.svg")


def test_the_calendar_says_every_stage_once() -> None:
    calendar = Calendar(steps=50, cycles=3, length=12, estimate=2, explore=3)
    spans = list(calendar.spans())
    assert spans[:4] == [("estimate", 1, 2), ("exploit", 3, 9), ("explore", 10, 12), ("estimate", 13, 14)]
    assert spans[-2:] == [("estimate", 37, 38), ("exploit", 39, 50)]
    assert [last for _, _, last in spans[:-1]] == [first - 1 for _, first, _ in spans[1:]]
    assert [step for step in range(51) if calendar.prunes(step)] == [2, 14, 26, 38]
    assert [step for step in range(51) if calendar.grows(step)] == [12, 24, 36]
    assert [step for step in range(51) if calendar.enters(step)] == [9, 21, 33]
    assert [calendar.cycle(step) for step in (1, 12, 13, 36, 37, 500)] == [0, 0, 1, 2, 3, 3]


def test_default_cycles_leave_half_to_exploitation() -> None:
    assert calendar_of(4000, cycles=None, stop=0.75, estimate=20, explore=30) == Calendar(4000, 10, 300, 20, 30)
    assert calendar_of(1000, cycles=None, stop=0.75, estimate=20, explore=30) == Calendar(1000, 7, 107, 20, 30)
    assert calendar_of(100, cycles=None, stop=0.75, estimate=20, explore=30) == Calendar(100, 1, 75, 15, 22)
    assert calendar_of(2, cycles=None, stop=0.75, estimate=20, explore=30) == Calendar(2, 0, 1, 1, 1)
    for steps in range(1, 300, 7):
        for stop in (0.0, 0.5, 0.9, 1.0):
            calendar = calendar_of(steps, cycles=None, stop=stop, estimate=20, explore=4)
            assert calendar.last_prune <= steps and calendar.estimate + calendar.explore <= max(2, calendar.length)
    assert calendar_of(100, cycles=0, stop=0.75, estimate=20, explore=30).stage(21) == "exploit"


def test_counts_move_between_their_bounds() -> None:
    units = {"a": 1, "b": 1, "c": 1}
    assert within({"a": 5, "b": 5, "c": 5}, {"a": 6, "b": 0, "c": 0}, {"a": 9, "b": 9, "c": 9}, units) == {"a": 6, "b": 4, "c": 5}
    assert within({"a": 5, "b": 5, "c": 5}, dict.fromkeys("abc", 0), {"a": 9, "b": 3, "c": 6}, units) == {"a": 7, "b": 3, "c": 5}
    with pytest.raises(Error, match="do not fit"):
        within({"a": 5, "b": 5, "c": 5}, dict.fromkeys("abc", 0), dict.fromkeys("abc", 4), units)
    blocks = within({"a": 8, "b": 16, "c": 8}, dict.fromkeys("abc", 0), {"a": 4, "b": 32, "c": 8}, {"a": 4, "b": 4, "c": 8})
    assert blocks == {"a": 4, "b": 20, "c": 8}


def test_growth_falls_along_a_cosine() -> None:
    assert [round(share_of_cycle(0.3, cycle, 4, "cosine"), 4) for cycle in range(5)] == [0.3, 0.2561, 0.15, 0.0439, 0.0]
    assert share_of_cycle(0.3, 3, 4, "constant") == 0.3
