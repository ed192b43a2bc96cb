"""What shapes and literals become when units go: the tape that the algebra predicts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxsparse.axes.factors import Atoms, Axis, Bools, Factor, size
from fxsparse.axes.loose import Gather, Loose
from fxsparse.axes.reader import Reading
from fxsparse.axes.site import PositionIn, SizeOf
from fxsparse.axes.solve import Solution


class Prediction:
    """Everything about a reading after some classes have gone."""

    def __init__(self, reading: Reading, solution: Solution, alive: Bools) -> None:
        self.reading = reading
        self.alive_atoms: Bools = alive[solution.class_of[: reading.algebra.atom_count]]
        self._counts: dict[int, int] = {}

    def mask(self, axis: Axis) -> Bools:
        """Which coordinates of an axis are left, in dense order."""
        masks = [np.ones(f.size, dtype=bool) if f.atoms is None else self.alive_atoms[f.atoms] for f in axis]
        return functools.reduce(lambda a, b: np.logical_and.outer(a, b).reshape(-1), masks, np.ones(1, dtype=bool))

    def count(self, factor: Factor) -> int:
        if factor.atoms is None:
            return factor.size
        known = self._counts.get(factor.uid)
        if known is None:
            known = self._counts[factor.uid] = int(np.count_nonzero(self.alive_atoms[factor.atoms]))
        return known

    def size(self, axis: Axis) -> int:
        total = 1
        for factor in axis:
            total *= self.count(factor)
        return total

    def shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        return tuple(self.size(axis) for axis in axes)

    def value(self, literal: Any) -> Any:
        """A literal as it must be written now."""
        if isinstance(literal, SizeOf):
            return literal.written if literal.written == -1 else self.size(literal.axis)
        if isinstance(literal, PositionIn):
            unchanged = all(self.count(factor) == factor.size for factor in literal.axis)
            if unchanged or (literal.index == size(literal.axis) and literal.written != literal.index):
                return literal.written  # an open end stays open
            return int(np.count_nonzero(self.mask(literal.axis)[: literal.index]))
        if isinstance(literal, (list, tuple)):
            return [self.value(item) for item in literal]
        return literal

    def positions(self, before: Factor, after: Factor) -> Atoms:
        """For each living coordinate of `after`, its position among the living ones of `before`: the index of one gather."""
        assert before.atoms is not None and after.atoms is not None
        source = before.atoms[self.alive_atoms[before.atoms]]
        target = after.atoms[self.alive_atoms[after.atoms]]
        order = np.argsort(source)
        return order[np.searchsorted(source, target, sorter=order)]

    def gathers(self, tape: int) -> tuple[set[int], list[Gather]]:
        """Values that have no shape any more, and the gathers that replace them; empty where the loose splits lost nothing."""
        loose = Loose(self.reading.algebra, self.reading.tapes[tape])
        ragged = {
            value
            for value in loose.values
            if any(split.parent.atoms is not None and self.count(split.parent) != split.parent.size for split in loose.splits_at(value))
        }
        found = [loose.gather(position, value) for position, value in loose.exits() if value in ragged]
        return ragged, [gather for gather in found if gather is not None]
