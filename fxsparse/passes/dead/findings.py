"""What a search for dead channels writes down: who is needed, what is constant, and where constants can go."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fxsparse.axes.factors import Atoms, Axis, Bools
from fxsparse.channels.groups import Structure
from fxsparse.passes.dead.bias_places import Bias


@dataclass(frozen=True)
class Share:
    """What a channel with a constant adds to each output of a layer, and the axis of the layer's weight that loses it."""

    bias: Bias
    weight: str
    turned: bool  # the weight's inputs are its first axis
    axis: Axis  # the reduced axis
    outputs: Axis
    columns: Atoms  # coordinates on it
    terms: Tensor  # (outputs, columns), float64


@dataclass(frozen=True)
class Padded:
    """What a convolution that pads with zeros knows of its input channels. Constants there can only move to another constant channel."""

    weight: str
    classes: Atoms  # of each input channel; -1 where several decide, or the channel is read twice
    values: Tensor
    known: Bools


@dataclass
class Findings:
    """What a look at all tapes found."""

    structure: Structure
    blocked: Bools  # class -> some call needs it
    moving: Bools  # class -> some call needs it, but another constant channel could stand in for it
    alive: Bools  # class -> some call needs it, and it is no constant there
    reasons: dict[int, str] = field(default_factory=dict)  # class that is constant, and cannot go -> why
    ends: set[int] = field(default_factory=set)  # classes whose constant ends at the call that is the reason
    shares: list[Share] = field(default_factory=list)
    padded: list[Padded] = field(default_factory=list)
    _generators: dict[tuple[int, ...], Atoms] = field(default_factory=dict)

    def generators(self, axis: Axis) -> Atoms:
        """(coordinates, n): the classes that decide over each coordinate, filled up with -1."""
        key = tuple(factor.uid for factor in axis)
        if key not in self._generators:
            self._generators[key] = _generators(self.structure, axis)
        return self._generators[key]

    def block(self, axis: Axis, coordinates: Bools | None = None) -> None:
        """Keep the units behind these coordinates (all, if nothing is said)."""
        classes = self.generators(axis)
        chosen = classes if coordinates is None else classes[coordinates]
        self.blocked[chosen[chosen >= 0]] = True

    def explain(self, axis: Axis, coordinates: Bools, why: str, last: bool = False) -> None:
        """Remember why units that are constant stay, should they stay. `last`: they are no constants behind this call."""
        for each in np.unique(self.generators(axis)[coordinates]).tolist():
            if each >= 0:
                self.reasons.setdefault(each, why)
                if last:
                    self.ends.add(each)

    def why(self, unit: int) -> str | None:
        """Why a unit stays although it is constant; nothing of one that is not constant all the way."""
        stays = (self.blocked[unit] or self.moving[unit]) and (not self.alive[unit] or unit in self.ends)
        return self.reasons.get(unit) if stays else None


def _generators(structure: Structure, axis: Axis) -> Atoms:
    solution = structure.solution
    total = math.prod(factor.size for factor in axis)
    columns: list[Atoms] = []
    inner = total
    for factor in axis:
        inner //= max(factor.size, 1)
        if factor.atoms is None:
            continue
        classes = structure.factor_classes(factor)
        if solution.derived[classes].any():
            parts = [np.unique(solution.generators(np.array([c]))) for c in classes.tolist()]
            width = max(map(len, parts))
            table = np.stack([np.pad(part, (0, width - len(part)), constant_values=-1) for part in parts])
        else:
            table = classes[:, None]
        outer = total // max(factor.size * inner, 1)
        columns.append(np.tile(np.repeat(table, inner, axis=0), (outer, 1)))
    return np.concatenate(columns, axis=1) if columns else np.full((total, 1), -1, dtype=np.int64)


def settle(found: Findings) -> None:
    """A layer that is called several times has one bias: constants that differ from call to call cannot go there."""
    by_bias: dict[str, list[Share]] = {}
    for share in found.shares:
        by_bias.setdefault(share.bias.key, []).append(share)
    for shares in by_bias.values():
        first = shares[0]
        for other in shares[1:]:
            if not _same(first, other):
                why = f"{first.bias.owner} is called several times, with other constants"
                for share in (first, other):
                    chosen = np.zeros(math.prod(f.size for f in share.axis), dtype=bool)
                    chosen[share.columns] = True
                    found.block(share.axis, chosen)
                    found.explain(share.axis, chosen, why)


def _same(a: Share, b: Share) -> bool:
    return a.weight == b.weight and np.array_equal(a.columns, b.columns) and torch.equal(a.terms, b.terms)
