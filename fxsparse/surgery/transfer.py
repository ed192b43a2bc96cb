"""Removed units, found again in a network that was analysed anew: by the coordinates of the tensors that both have."""

from __future__ import annotations

import math

import numpy as np

from fxsparse.axes.factors import Axis, Bools
from fxsparse.axes.predict import Prediction
from fxsparse.channels.groups import Structure
from fxsparse.errors import PlanError
from fxsparse.surgery.plan import predict


def transferred(old: Structure, prediction: Prediction, new: Structure) -> dict[str, tuple[int, ...]]:
    """Group name -> living units of the new structure, when the tensors it shares with the old one keep what they have."""
    was, now = _by_every_name(old), _by_every_name(new)
    shared = {key: list(zip(was[key], now[key], strict=True)) for key in now if key in was and _shape(was[key]) == _shape(now[key])}
    alive = np.zeros(new.solution.count, dtype=bool)
    seen = np.zeros(new.solution.count, dtype=bool)
    for axes in shared.values():
        for before, after in axes:
            _mark(new, after, prediction.mask(before), alive, seen)
    gone = seen & ~alive
    living = {name: tuple(np.flatnonzero(~gone[classes]).tolist()) for name, classes in new.classes.items()}
    for name, group in new.groups.items():
        if not group.prunable and len(living[name]) != len(group.units):
            raise PlanError(f"the change protects {name!r}, which lost units already: {group.reason}; make the change first, then prune")
    _compare(prediction, predict(new, living), shared)
    return living


def _by_every_name(structure: Structure) -> dict[str, list[Axis]]:
    reading = structure.reading
    return {**reading.tensors, **{name: reading.tensors[first] for name, first in reading.aliases.items() if first in reading.tensors}}


def _shape(axes: list[Axis]) -> tuple[int, ...]:
    return tuple(math.prod(factor.size for factor in axis) for axis in axes)


def _mark(new: Structure, axis: Axis, mask: Bools, alive: Bools, seen: Bools) -> None:
    """A generator lives where any coordinate lives that it has a part in."""
    grid = mask.reshape([factor.size for factor in axis])
    for position, factor in enumerate(axis):
        if factor.atoms is None:
            continue
        others = tuple(i for i in range(len(axis)) if i != position)
        classes = new.factor_classes(factor)
        seen[new.solution.generators(classes)] = True
        alive[new.solution.generators(classes[grid.any(axis=others)])] = True


def _compare(old: Prediction, new: Prediction, shared: dict[str, list[tuple[Axis, Axis]]]) -> None:
    for key, axes in shared.items():
        for position, (before, after) in enumerate(axes):
            if not np.array_equal(old.mask(before), new.mask(after)):
                raise PlanError(
                    f"the change couples axis {position} of {key!r} with others that lost other units; make the change first, then prune"
                )
