"""What one unit costs, and what the whole network does: parameters and multiply-accumulates from axes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fxsparse.axes.factors import Axis, Factor
from fxsparse.axes.predict import Prediction
from fxsparse.channels.groups import Cost, Group, Structure


def with_costs(structure: Structure, prediction: Prediction, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Each group with the cost of its first living unit, everything else staying as wide as it is."""
    counter = _UnitCounter(structure, prediction, groups)
    parameters = [0.0] * len(groups)
    macs = [0.0] * len(groups)
    trainable = {
        key for each in structure.reading.tapes for key, ref in each.tape.keys.items() if each.tape.values[ref.id].origin == "parameter"
    }
    for key, axes in structure.reading.tensors.items():
        if key in trainable:
            counter.add(axes, parameters)
    for call in structure.reading.tapes[0].calls:
        for contraction in call.contractions:
            counter.add(contraction.axes, macs)
    return tuple(replace(g, cost=Cost(round(p), round(m))) for g, p, m in zip(groups, parameters, macs, strict=True))


class _UnitCounter:
    def __init__(self, structure: Structure, prediction: Prediction, groups: tuple[Group, ...]) -> None:
        self.structure = structure
        self.prediction = prediction
        self.group_of = np.full(structure.solution.count, -1, dtype=np.int64)
        self.widths = [max(1, len(g.units)) for g in groups]
        for number, group in enumerate(groups):
            self.group_of[structure.classes[group.name]] = number
        self.known: dict[int, dict[int, float]] = {}

    def share(self, factor: Factor) -> dict[int, float]:
        """group -> how many coordinates of the factor one of its units holds."""
        if factor.atoms is None:
            return {}
        found = self.known.get(factor.uid)
        if found is None:
            alive = self.prediction.alive_atoms[factor.atoms]
            classes = self.structure.solution.generators(self.structure.solution.class_of[factor.atoms[alive]])
            counts = np.bincount(self.group_of[classes] + 1)[1:]  # the first one is of no group
            found = self.known[factor.uid] = {n: float(counts[n]) / self.widths[n] for n in np.flatnonzero(counts).tolist()}
        return found

    def add(self, axes: Sequence[Axis], totals: list[float]) -> None:
        """Add to each group what one unit less would save of the product of these axes."""
        factors = [factor for axis in axes for factor in axis]
        counts = [self.prediction.count(factor) for factor in factors]
        total = math.prod(counts)
        shares = [self.share(factor) for factor in factors]
        for number in {n for share in shares for n in share}:
            left = math.prod(count - share.get(number, 0.0) for count, share in zip(counts, shares, strict=True))
            totals[number] += total - left


def network_macs(structure: Structure, prediction: Prediction) -> int:
    """Multiply-accumulates of one run on the example inputs."""
    return sum(
        math.prod(prediction.size(axis) for axis in contraction.axes)
        for call in structure.reading.tapes[0].calls
        for contraction in call.contractions
    )


def network_parameters(structure: Structure, prediction: Prediction) -> int:
    """Trainable numbers, tied tensors counted once."""
    tapes = structure.reading.tapes
    keys = {
        each.tape.values[ref.id].key for each in tapes for ref in each.tape.keys.values() if each.tape.values[ref.id].origin == "parameter"
    }
    return sum(math.prod(prediction.shape(structure.reading.tensors[key])) for key in keys if key is not None)
