"""What a rule sees of one call: its arguments, the axes of its tensors, and where to write what it concludes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fxsparse.axes.factors import Algebra, Atoms, Axis, Bools, size
from fxsparse.errors import RuleError
from fxsparse.tracing.tape import Call, Ref, Tape

STRENGTH = ("produces", "follows", "consumes")


@dataclass(frozen=True, slots=True)
class SizeOf:
    """A literal that will be the number of living coordinates of this axis; `written` is what stood there (-1, say)."""

    axis: Axis
    written: int


@dataclass(frozen=True, slots=True)
class PositionIn:
    """A literal that will be the number of living coordinates before `index`."""

    axis: Axis
    index: int
    written: int | None


@dataclass(frozen=True, slots=True)
class Contraction:
    """Multiply-accumulates of a call: the product of the sizes of these axes."""

    axes: tuple[Axis, ...]


@dataclass(slots=True)
class Book:
    """What reading has found so far, for all tapes together."""

    algebra: Algebra
    roles: dict[int, str] = field(default_factory=dict)  # factor uid -> produces | consumes
    statistics: set[int] = field(default_factory=set)  # uids of factors over which some norm takes its statistics
    meetings: set[int] = field(default_factory=set)  # uids of factors that are summed over where no weight consumes them
    consumers: set[int] = field(default_factory=set)  # uids of factors of weights along which something is summed over
    alike: set[int] = field(default_factory=set)  # uids of factors that no weight makes: copies of one value
    padding: set[int] = field(default_factory=set)  # those among them that stand beside what was padded
    counted: dict[int, str] = field(default_factory=dict)  # uids of factors over which a norm or a sum goes, and which one
    varying: list[tuple[tuple[Axis, ...], float]] = field(default_factory=list)  # together these axes hold more numbers than that
    steps: list[tuple[Axis, int, str]] = field(default_factory=list)  # whose kernel wants an axis in multiples of so many
    _copies: tuple[tuple[int, int], Bools] = ((0, 0), np.zeros(0, dtype=bool))  # the last answer of `copies`, and what it was of

    def copied(self, atoms: Atoms) -> Bools:
        """Which of these no weight makes: those of `alike`, and of what was merged with one of them."""
        now = (len(self.alike), len(self.algebra.merges))
        if self._copies[0] != now:
            found = np.zeros(self.algebra.atom_count + 1, dtype=bool)  # the last one stands for atoms that come later
            for uid in self.alike:
                if (made := self.algebra.factors[uid].atoms) is not None:
                    found[made] = True
            for merge in self.algebra.merges if found.any() else ():
                parts = [found[part] for part in merge.parts]
                if any(each.any() for each in parts):
                    found[merge.whole] |= functools.reduce(np.logical_or.outer, parts).reshape(-1)
            self._copies = (now, found)
        known = self._copies[1]
        answer: Bools = known[np.minimum(atoms, len(known) - 1)] if len(known) else np.zeros(len(atoms), dtype=bool)
        return answer


class Site:
    """One call, as its rule sees it."""

    def __init__(self, call: Call, tape: Tape, book: Book, axes_of: Callable[[Ref], list[Axis]], is_weight: Callable[[Ref], bool]) -> None:
        self.call = call
        self.tape = tape
        self.book = book
        self.algebra = book.algebra
        self._axes_of = axes_of
        self.is_weight = is_weight
        self.results: dict[int, list[Axis]] = {}
        self.literals: dict[str, Any] = {}
        self.contractions: list[Contraction] = []
        self.movement = False
        names, defaults = _signature(call.op)
        self._arguments = {**defaults, **dict(zip(names, call.args, strict=False)), **call.kwargs}

    # ---- reading ----------------------------------------------------------------------------------------------------------

    def arg(self, name: str) -> Any:
        try:
            return self._arguments[name]
        except KeyError:
            raise RuleError(f"{self.call.op} has no argument {name!r}; it has {', '.join(self._arguments)}") from None

    def has(self, name: str) -> bool:
        return name in self._arguments

    @property
    def tensors(self) -> tuple[Ref, ...]:
        """All tensors among the arguments, in order, lists opened."""
        return self.call.reads

    def axes(self, tensor: Ref | str) -> list[Axis]:
        ref = self.arg(tensor) if isinstance(tensor, str) else tensor
        return list(self._axes_of(ref))

    def shape(self, tensor: Ref | str) -> tuple[int, ...]:
        ref = self.arg(tensor) if isinstance(tensor, str) else tensor
        return self.tape.shape(ref)

    def result_shape(self, index: int = 0) -> tuple[int, ...]:
        ref = self.call.results[index]
        return self.tape.shape(ref) if isinstance(ref, Ref) else ()

    # ---- concluding -------------------------------------------------------------------------------------------------------

    def give(self, axes: Sequence[Axis], index: int = 0) -> None:
        self.results[index] = list(axes)

    def moved(self, axes: Sequence[Axis], index: int = 0) -> None:
        """A result of pure movement: nothing is touched."""
        self.movement = True
        self.results[index] = list(axes)

    def literal(self, name: str, value: Any) -> None:
        """Argument `name` holds sizes or positions and will change with the axes it speaks of."""
        self.literals[name] = value

    def sizes(self, name: str, axes: Sequence[Axis]) -> None:
        written = self.arg(name)
        self.literal(name, [SizeOf(axis, w) for axis, w in zip(axes, written, strict=True)])

    def touch(self, *axes: Axis) -> None:
        for axis in axes:
            self.algebra.touch(axis)

    def freeze(self, axis: Axis, why: str) -> None:
        self.algebra.freeze(axis, f"{self.call.name.partition('.')[2]} {why}")

    def meeting(self, *axes: Axis) -> None:
        """The operator sums over these axes of activations: no weight could silence a coordinate."""
        self.book.meetings.update(factor.uid for axis in axes for factor in axis)
        for axis in axes:
            self.count_whole(axis)

    def role(self, axis: Axis, role: str) -> None:
        """What an axis of a weight does; a weight that is used in two ways does the stronger of the two."""
        for factor in axis:
            self.book.roles[factor.uid] = min(role, self.book.roles.get(factor.uid, role), key=STRENGTH.index)

    def alike(self, count: int) -> Axis:
        """A new axis of copies of one value: any of them may go, and no weight makes them."""
        axis = self.algebra.fresh(count)
        self.book.alike.update(factor.uid for factor in axis)
        return axis

    def count_whole(self, axis: Axis) -> None:
        """A norm or a sum goes over it: copies and paddings among its coordinates stay, for they are counted, and no part of a unit."""
        why = f"{self.call.name.partition('.')[2]} counts it, and no weight makes it"
        for factor in axis:
            if factor.atoms is not None:
                self.book.counted.setdefault(factor.uid, why)
                if self.book.alike and (counted := self.book.copied(factor.atoms)).any():
                    self.algebra.freeze_atoms(factor, counted, why)

    def take_statistics(self, axes: Iterable[Axis]) -> None:
        """A norm looks along these axes: where units are gone, its statistics are those of what is left."""
        for axis in axes:
            self.count_whole(axis)
            self.book.statistics.update(factor.uid for factor in axis)

    def free(self, count: int, why: str) -> Axis:
        return self.algebra.free(count, f"{self.call.name.partition('.')[2]} {why}")

    def free_like(self, count: int, axis: Axis, why: str) -> Axis:
        """A free axis that replaces a frozen one: keeps the old reason where there is one."""
        reasons = [factor.reason for factor in axis if factor.free]
        return self.algebra.free(count, reasons[0]) if reasons else self.free(count, why)


@functools.cache
def _signature(op: Any) -> tuple[list[str], dict[str, Any]]:
    """An operator's argument names, and the values of those that may be left out."""
    arguments = op._schema.arguments
    return [a.name for a in arguments], {a.name: a.default_value for a in arguments if a.has_default_value()}


def dim_of(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim


def same_size(axes: Sequence[Axis], shape: Sequence[int]) -> bool:
    return len(axes) == len(shape) and all(size(axis) == extent for axis, extent in zip(axes, shape, strict=True))
