"""The drawing of the groups: lanes that never collide, as few as there must be."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from fxsparse.report.describe import group_lines, layer_lines
from fxsparse.report.graph import drawn, lanes, layer_of
from tests.report.examples import networks

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=25).map(
    lambda pairs: {number: (start, start + length) for number, (start, length) in enumerate(pairs)}
)


@given(SPANS)
def test_spans_that_share_a_row_have_lanes_of_their_own_and_no_lane_is_wasted(spans: dict[int, tuple[int, int]]) -> None:
    found = lanes(spans)
    assert found.keys() == spans.keys()
    for row in range(45):
        there = [number for number, (first, last) in spans.items() if first <= row <= last]
        assert len({found[number] for number in there}) == len(there)
    crowd = max((sum(first <= row <= last for first, last in spans.values()) for row in range(45)), default=0)
    assert len(set(found.values())) == crowd


def test_the_drawing_of_a_network() -> None:
    before, after = networks()
    groups = group_lines(after, before)
    drawing = drawn(groups, (layer.name for layer in layer_lines(after)))
    assert [row.name for row in drawing.rows] == ["stem", "norm", "inner", "outer", "head"]
    lane = {each.name: each for each in drawing.lanes}
    assert lane["inner"].state == "changed" and 0 < lane["inner"].part < 1
    assert lane["head"].state == "protected"
    roles = {drawing.rows[mark.row].name: mark.role for mark in lane["stem"].marks}
    assert roles == {"stem": "produces", "norm": "follows", "inner": "consumes", "outer": "produces", "head": "consumes"}
    assert all(0 < each.x < drawing.width and 0 < each.top <= each.bottom < drawing.height for each in drawing.lanes)


def test_nothing_to_draw() -> None:
    assert drawn([]).rows == () and drawn([]).lanes == ()


def test_the_layer_of_a_tensor() -> None:
    assert layer_of("a.b.weight") == "a.b"
    assert layer_of("a.parametrizations.weight.original0") == "a"
    assert layer_of("token") == "token"
