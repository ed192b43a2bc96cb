"""Splits that nothing but movement has seen, and the permutations that end them.

A channel shuffle views an axis as (g, n), transposes, and views it back. Nothing looks at g or n, so any channel may go: the result is
a permutation of the same atoms, and the surgery replaces the views by one gather. That works where the region from the first view to
the last is made of graph nodes and changes one axis in its place. Everywhere else the split is made to bind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fxsparse.axes.factors import Algebra, Axis, Factor, Split, size
from fxsparse.tracing.tape import Tape

if TYPE_CHECKING:
    from fxsparse.axes.reader import TapeReading


@dataclass(frozen=True, slots=True)
class Gather:
    """A loose region: value `source` becomes value `result`, with axis `dim` permuted from `before` to `after`."""

    source: int
    result: int
    dim: int
    before: Factor
    after: Factor
    calls: tuple[int, ...]  # tape positions of the region, last one first


class Loose:
    """Which values of a tape have axes that are parts of a loose split."""

    def __init__(self, algebra: Algebra, reading: TapeReading) -> None:
        self.reading = reading
        self.split_of = {child.uid: split for split in algebra.loose_splits() for child in split.children}
        self.values = {value for value, axes in reading.axes.items() if self._splits(axes)}
        self.maker = {ref.id: position for position, call in enumerate(reading.tape.calls) for ref in call.makes}

    def _splits(self, axes: Sequence[Axis]) -> list[Split]:
        return [self.split_of[factor.uid] for axis in axes for factor in axis if factor.uid in self.split_of]

    def splits_at(self, value: int) -> list[Split]:
        return self._splits(self.reading.axes[value])

    def exits(self) -> list[tuple[int, int]]:
        """(call, value) pairs: a call that reads a loose value and makes one that is not."""
        found = []
        for position, call in enumerate(self.reading.tape.calls):
            sources = [ref.id for ref in call.reads if ref.id in self.values]
            made = [ref.id for ref in call.makes]
            if sources and any(value not in self.values for value in made):
                found.append((position, sources[0]))
        return found

    def gather(self, position: int, value: int) -> Gather | None:
        """The region that ends with this call, if it is a permutation of one axis in its place by graph nodes alone."""
        calls = [position]
        while value in self.values:
            maker = self.maker.get(value)
            if maker is None or not self.reading.calls[maker].movement:
                return None
            calls.append(maker)
            value = self.reading.tape.calls[maker].reads[0].id
        if not self.reading.calls[position].movement:
            return None
        if any(not _by_graph(self.reading.tape, call) for call in calls):
            return None
        result = self.reading.tape.calls[position].results[0].id
        changed = self._one_permuted_axis(self.reading.axes[value], self.reading.axes[result])
        return None if changed is None else Gather(value, result, *changed, tuple(calls))

    @staticmethod
    def _one_permuted_axis(before: list[Axis], after: list[Axis]) -> tuple[int, Factor, Factor] | None:
        if len(before) != len(after):
            return None
        different = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not _same(a, b)]
        if len(different) > 1:
            return None
        dim = different[0] if different else next((i for i, axis in enumerate(before) if len(axis) == 1 and not axis[0].free), -1)
        if dim < 0 or len(before[dim]) != 1 or len(after[dim]) != 1:
            return None
        a, b = before[dim][0], after[dim][0]
        if a.atoms is None or b.atoms is None or not np.array_equal(np.sort(a.atoms), np.sort(b.atoms)):
            return None
        if len(np.unique(a.atoms)) < len(a.atoms):  # cat([x, f(x)]): a coordinate is there twice, and nothing says which of them went where
            return None
        return dim, a, b


def _same(a: Axis, b: Axis) -> bool:
    if all(f.free for f in (*a, *b)):
        return size(a) == size(b)
    return [f.uid for f in a] == [f.uid for f in b]


def _by_graph(tape: Tape, position: int) -> bool:
    owner = tape.calls[position].owner
    return owner.node is not None


def bind_what_cannot_be_gathered(algebra: Algebra, readings: list[TapeReading]) -> None:
    """Until nothing changes: a loose region that is no gather makes its splits bind."""
    changed = True
    while changed:
        changed = False
        for reading in readings:
            loose = Loose(algebra, reading)
            for position, value in loose.exits():
                if loose.gather(position, value) is None:
                    for split in loose.splits_at(value):
                        algebra.keep(split)
                        changed = True
            if changed:
                break
