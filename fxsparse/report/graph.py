"""The group graph as a drawing: a row for each layer, a lane for each group, a mark where a group has coordinates in a layer.

A group is alive from the first layer that it touches to the last, as a variable is in a register; groups whose spans overlap need lanes of
their own. That is the colouring of an interval graph, which taken in order of the spans' beginnings needs no more lanes than must be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx

from fxsparse.report.run import GroupLine

ROLES = ("produces", "consumes", "follows")  # a layer with several roles in a group is marked with the first
ROW, LANE, TOP = 20, 18, 10  # pixels
GLYPH = 7.3  # the width of a letter of the labels
LONGEST = 34  # letters of a label


@dataclass(frozen=True)
class Mark:
    """A group in a layer."""

    x: float
    y: float
    role: str
    row: int


@dataclass(frozen=True)
class Lane:
    """A group, from its first layer to its last. `part` is the share of its units that is left."""

    group: int
    name: str
    x: float
    top: float
    bottom: float
    part: float
    state: str  # changed, whole or protected
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Row:
    """A layer."""

    name: str
    label: str
    y: float
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    width: float
    height: float
    label_width: float
    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]


def drawn(groups: Sequence[GroupLine], order: Iterable[str] = ()) -> Drawing:
    """The drawing of a network's groups; `order` is that of the layers in the model."""
    marks = {number: _roles(group) for number, group in enumerate(groups)}
    names = _in_order(groups, order)
    position = {name: row for row, name in enumerate(names)}
    spans = {n: (min(position[m] for m in roles), max(position[m] for m in roles)) for n, roles in marks.items() if roles}
    lane_of = lanes(spans)
    labels = {name: _short(name) for name in names}
    left = max((len(label) for label in labels.values()), default=0) * GLYPH + 12
    drawn_lanes = []
    for number, (first, last) in spans.items():
        group, x = groups[number], left + (lane_of[number] + 0.5) * LANE
        made = tuple(Mark(x, _y(position[m]), role, position[m]) for m, role in marks[number].items())
        state = "changed" if group.changed else "whole" if group.prunable else "protected"
        part = group.after / group.before if group.before else 1.0
        drawn_lanes.append(Lane(number, group.name, x, _y(first), _y(last), part, state, made))
    touching: dict[str, list[int]] = {name: [] for name in names}
    for number, roles in marks.items():
        for name in roles:
            touching[name].append(number)
    rows = tuple(Row(name, labels[name], _y(row), tuple(touching[name])) for row, name in enumerate(names))
    width = left + (max(lane_of.values(), default=0) + 1) * LANE + 8
    return Drawing(width, len(names) * ROW + 2 * TOP, left, rows, tuple(drawn_lanes))


def lanes(spans: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """The lane of each span, so that those which share a row are side by side."""
    graph: networkx.Graph[int] = networkx.Graph()
    graph.add_nodes_from(spans)
    order = sorted(spans, key=lambda number: (spans[number][0], -spans[number][1], number))
    active: list[int] = []
    for number in order:
        active = [other for other in active if spans[other][1] >= spans[number][0]]
        graph.add_edges_from((number, other) for other in active)
        active.append(number)
    found: dict[int, int] = networkx.greedy_color(graph, strategy=lambda _graph, _colours: order)
    return found


def _y(row: int) -> float:
    return TOP + (row + 0.5) * ROW


def _roles(group: GroupLine) -> dict[str, str]:
    """Layer -> what it does with the group."""
    found: dict[str, str] = {}
    for member in group.members:
        layer = layer_of(member.tensor)
        role = member.role if member.role in ROLES else ROLES[-1]
        found[layer] = min(found.get(layer, role), role, key=ROLES.index)
    return found


def _in_order(groups: Iterable[GroupLine], order: Iterable[str]) -> list[str]:
    """The layers that groups name: in the given order, and others as the groups come to them."""
    named = dict.fromkeys(layer for group in groups for layer in _roles(group))
    known = [layer for layer in dict.fromkeys(order) if layer in named]
    return [*known, *(layer for layer in named if layer not in set(known))]


def layer_of(tensor: str) -> str:
    """The module that a user knows a tensor by."""
    layer, inside, _ = tensor.partition(".parametrizations.")
    return layer if inside else tensor.rpartition(".")[0] or tensor


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else "…" + name[-(LONGEST - 1) :]
