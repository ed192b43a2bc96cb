"""Groups of interchangeable units, found from the axes of everything.

A *unit* is the smallest set of coordinates, over all coupled tensors, that can go alone: a class that no product decides over. Units that
sit in the same factors in the same way are interchangeable and make a *group*. Coordinates that may not go stand in groups as well,
protected, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fxsparse.axes.factors import Atoms, Factor
from fxsparse.axes.reader import Reading
from fxsparse.axes.solve import Solution
from fxsparse.channels.signature import signatures

Role = Literal["produces", "consumes", "follows"]
KINDS = ("heads", "head_dim", "groups", "group_channels", "channels")  # a class with several labels is the first of them


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one tensor in which a group has coordinates."""

    tensor: str
    axis: int
    role: Role


@dataclass(frozen=True, slots=True)
class Cost:
    """What one unit costs, with everything else in its place."""

    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class Group:
    """Units that are interchangeable. `units` are the numbers of the living ones."""

    name: str
    kind: str
    units: tuple[int, ...]
    members: tuple[Member, ...]
    prunable: bool
    reason: str
    cost: Cost

    @property
    def size(self) -> int:
        """How many units live."""
        return len(self.units)


@dataclass(slots=True)
class Structure:
    """All groups of a network as it was first analysed; `classes[name][unit]` is the class of a unit."""

    reading: Reading
    solution: Solution
    groups: dict[str, Group] = field(default_factory=dict)
    classes: dict[str, Atoms] = field(default_factory=dict)
    group_of_class: Atoms = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # generator class -> number of its group

    def factor_classes(self, factor: Factor) -> Atoms:
        assert factor.atoms is not None
        return self.solution.class_of[factor.atoms]

    def coordinates(self, tensor: str, axis: int, name: str) -> list[tuple[int, int]]:
        """(coordinate, unit) pairs of a group on one tensor axis."""
        pairs: list[tuple[int, int]] = []
        number = {int(c): unit for unit, c in enumerate(self.classes[name])}
        for factor in self.reading.tensors[tensor][axis]:
            for coordinate, c in enumerate(self.factor_classes(factor).tolist()):
                for generator in self.solution.generators(np.array([c])).tolist():
                    if generator in number:
                        pairs.append((coordinate, number[generator]))
        return pairs


def _first_uses(reading: Reading) -> dict[str, int]:
    """Tensor key -> the order in which the recorded run first used it."""
    order: dict[str, int] = {}
    for each in reading.tapes:
        for position, call in enumerate(each.tape.calls):
            for ref in call.reads:
                if key := each.tape.values[ref.id].key:
                    order.setdefault(key, position)
    return order


def _label_classes(reading: Reading, solution: Solution) -> npt.NDArray[np.int64]:
    """The kind of each class, as a position in KINDS."""
    kind = np.full(solution.count, len(KINDS) - 1, dtype=np.int64)
    for atoms, label in reading.algebra.labels:
        classes = solution.class_of[atoms]
        kind[classes] = np.minimum(kind[classes], KINDS.index(label))
    return kind


def _module_of(tensor: str) -> str:
    """The module that a user knows a tensor by: a parametrized weight belongs to its layer."""
    layer, inside, _ = tensor.partition(".parametrizations.")
    return layer if inside else tensor.rpartition(".")[0]


class _Grouper:
    def __init__(self, reading: Reading, solution: Solution) -> None:
        self.reading = reading
        self.solution = solution
        self.structure = Structure(reading, solution)
        self.kinds = _label_classes(reading, solution)
        self.order = _first_uses(reading)
        self.dtypes = {value.key: value.dtype for each in reading.tapes for value in each.tape.values if value.key is not None}

    def role(self, factor: Factor) -> Role:
        role = self.reading.book.roles.get(factor.uid)
        return "produces" if role == "produces" else "consumes" if role == "consumes" else "follows"

    def run(self) -> Structure:
        numbers = self.structure.group_of_class = self.partition()
        members = self.members(numbers)
        names = self.names(members)
        for number in sorted(members, key=lambda n: self.rank(members[n])):
            self.add(names[number], number, numbers, members[number])
        return self.structure

    def partition(self) -> Atoms:
        """Number of the group of each generator class, -1 for derived ones."""
        decisive = ~self.solution.derived
        _, reason = np.unique(np.array(["", *self.solution.reasons]), return_inverse=True)
        protection = reason.astype(np.uint64)[self.solution.why + 1] * np.uint64(len(KINDS)) + self.kinds.astype(np.uint64)
        keys = signatures(self.reading, self.solution, protection)
        order = np.argsort(keys, kind="stable")  # neighbours are often alike already, and this way of sorting uses that
        numbers = np.empty_like(order)
        numbers[order] = np.cumsum(np.diff(keys[order], prepend=keys[order[:1]]) != 0)
        return np.where(decisive, numbers, -1)

    def members(self, numbers: Atoms) -> dict[int, list[tuple[Member, Atoms]]]:
        """Group number -> its members, each with the generator classes of the axis in coordinate order."""
        found: dict[int, list[tuple[Member, Atoms]]] = {}
        known: dict[int, tuple[Atoms, list[int]]] = {}  # a layer's weight and bias, and the norm behind it, have one factor
        for tensor, axes in self.reading.tensors.items():
            for position, axis in enumerate(axes):
                for factor in axis:
                    if factor.atoms is None:
                        continue
                    if factor.uid not in known:
                        classes = self.solution.generators(self.structure.factor_classes(factor))
                        each = numbers[classes]
                        change = np.flatnonzero(each[1:] != each[:-1]) + 1  # neighbours are nearly always in one group
                        known[factor.uid] = classes, list({*each[:1].tolist(), *each[change].tolist()})
                    classes, here = known[factor.uid]
                    member = Member(tensor, position, self.role(factor))
                    for number in here:
                        found.setdefault(number, []).append((member, classes))
        return found

    def rank(self, members: list[tuple[Member, Atoms]]) -> tuple[int, int, int, str, int]:
        """Where a group stands in the order of the network: by its first producing tensor."""
        return min(self.member_rank(member) for member, _ in members)

    def member_rank(self, member: Member) -> tuple[int, int, int, str, int]:
        produces = 0 if member.role == "produces" else 1
        return (produces, self.order.get(member.tensor, 1 << 40), 0, member.tensor, member.axis)

    def names(self, members: dict[int, list[tuple[Member, Atoms]]]) -> dict[int, str]:
        """Readable and stable: the module of the first producing tensor, the kind when it is not plain channels, a number when needed."""
        wanted: dict[str, list[int]] = {}
        for number in sorted(members, key=lambda n: (self.rank(members[n]), self.first_coordinate(n, members[n]))):
            first = min((member for member, _ in members[number]), key=self.member_rank)
            generators = self.generators_of(number)
            module = _module_of(first.tensor)
            frozen = bool(self.solution.frozen[generators[0]])
            base = module or first.tensor
            if frozen and first.role != "produces":
                base = f"{first.tensor}[{first.axis}]"
            kind = KINDS[self.kinds[generators[0]]]
            wanted.setdefault(base if kind == "channels" else f"{base}/{kind}", []).append(number)
        return {number: base if i == 0 else f"{base}#{i + 1}" for base, numbers in wanted.items() for i, number in enumerate(numbers)}

    def generators_of(self, number: int) -> Atoms:
        return self._by_group[number]

    def first_coordinate(self, number: int, members: list[tuple[Member, Atoms]]) -> int:
        _, classes = min(members, key=lambda pair: self.member_rank(pair[0]))
        return int(np.flatnonzero(self.structure.group_of_class[classes] == number)[0])

    @property
    def _by_group(self) -> dict[int, Atoms]:
        if not hasattr(self, "_cached"):
            numbers = self.structure.group_of_class
            order = np.argsort(numbers, kind="stable")
            bounds = np.flatnonzero(np.diff(numbers[order])) + 1
            self._cached = {int(numbers[part[0]]): part for part in np.split(order, bounds)}
        return self._cached

    def add(self, name: str, number: int, numbers: Atoms, members: list[tuple[Member, Atoms]]) -> None:
        first, classes = min(members, key=lambda pair: self.member_rank(pair[0]))
        mine = classes[numbers[classes] == number]
        _, once = np.unique(mine, return_index=True)
        units = mine[np.sort(once)]
        reason = self.solution.reason(int(units[0])) if self.solution.frozen[units[0]] else ""
        if self.solution.frozen[units[0]] and not reason:
            reason = "coupled to a protected axis"
        unique: dict[tuple[str, int], Member] = {(m.tensor, m.axis): m for m, _ in members}
        makers = [member.tensor for member in unique.values() if member.role != "consumes"]
        if not reason and makers and not any(self.dtypes[key].is_floating_point or self.dtypes[key].is_complex for key in makers):
            reason = "whole numbers or truth values alone make it"  # which the proof cannot mark as missing
        if not reason and len(units) == 1:
            reason = "a single unit, which must stay"
        ordered = tuple(sorted(unique.values(), key=self.member_rank))
        self.structure.groups[name] = Group(
            name, KINDS[self.kinds[units[0]]], tuple(range(len(units))), ordered, not reason, reason, Cost(0, 0)
        )
        self.structure.classes[name] = units
        assert first in ordered or ordered


def group(reading: Reading, solution: Solution) -> Structure:
    """All groups of a reading, in the order of the network."""
    return _Grouper(reading, solution).run()
