"""Charts: well-formed, within their frame, deaf to what is no number."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fxsparse.report.charts import HEIGHT, WIDTH, Band, Bars, Line, Point, line_chart, scatter, short, ticks
from tests.report.examples import HOSTILE

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)


def coordinates(svg: str) -> list[tuple[float, float]]:
    root = ET.fromstring(svg)
    found = [(float(e.get("cx", "nan")), float(e.get("cy", "nan"))) for e in root.iter("circle")]
    for line in root.iter("polyline"):
        found += [(float(x), float(y)) for x, y in (pair.split(",") for pair in str(line.get("points")).split())]
    return found


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12))
def test_everything_stays_within_the_frame(points: list[tuple[float, float]]) -> None:
    for svg in (
        line_chart([Line("a", points), Line("b", points, 1, stepped=True)], x="step", y="y", title="t"),
        scatter([Point("p", x, y) for x, y in points], x="x", y="y", title="t"),
    ):
        assert all(-0.1 <= x <= WIDTH + 0.1 and -0.1 <= y <= HEIGHT + 0.1 for x, y in coordinates(svg))


def test_what_is_no_number_is_left_out() -> None:
    assert line_chart([Line("a", [(1, math.nan), (2, math.inf)])], x="x", y="y", title="t") == ""
    assert scatter([Point("a", math.nan, 1)], x="x", y="y", title="t") == ""
    assert len(coordinates(line_chart([Line("a", [(1, 1), (2, math.nan), (3, 3)])], x="x", y="y", title="t"))) == 4


def test_names_stay_text() -> None:
    svg = scatter([Point(HOSTILE, 1, 1)], x=HOSTILE, y=HOSTILE, title=HOSTILE)
    assert "<script" not in svg and "<img" not in svg
    assert any(HOSTILE[-23:] in (text.text or "") for text in ET.fromstring(svg).iter("text"))


def test_bars_and_bands() -> None:
    svg = line_chart([], x="step", y="y", title="t", bands=[Band("explore", 1, 4)], bars=[Bars("grown", [(2, 5), (3, -4)])])
    rects = [each.get("class") for each in ET.fromstring(svg).iter("rect")]
    assert rects == ["band explore", "bars s0", "bars s0"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.9, 1.0, [0.9, 0.92, 0.94, 0.96, 0.98, 1.0]),
        (-3, 3, [-2, 0, 2]),
        (0, 2.1e6, [0, 5e5, 1e6, 1.5e6, 2e6]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "percent", "expected"),
    [
        (0.975, True, "97.5%"),
        (25_557_032, False, "25.6M"),
        (671e6, False, "671M"),
        (3.4149, False, "3.41"),
        (1234, False, "1,234"),
        (0, False, "0"),
    ],
)
def test_short(value: float, percent: bool, expected: str) -> None:
    assert short(value, percent) == expected
