"""One constant channel can stand for others in front of a layer that pads with zeros.

A constant is not a bias there: the border sees less of it. But c * conv(1, w) + d * conv(1, v) is c * conv(1, w + d/c * v), border
included. So of all constant channels of a group, one stays and carries the rest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxsparse.axes.factors import Atoms
from fxsparse.passes.dead.bias_places import BiasPlaces
from fxsparse.passes.dead.findings import Findings, Padded


@dataclass(frozen=True)
class Move:
    """A weight's input channels `sources`, times `ratios`, are added to channel `target`, and are zero from then on."""

    weight: str
    target: int
    sources: Atoms
    ratios: Tensor

    def apply(self, weight: Tensor, target: int, sources: Tensor) -> None:
        """In place, at these positions."""
        ratios = self.ratios.to(weight.device).reshape(1, -1, *[1] * (weight.dim() - 2))
        moved = (weight[:, sources].double() * ratios).sum(1)
        weight[:, target] = (weight[:, target].double() + moved).to(weight.dtype)
        weight[:, sources] = 0


def settle_padded(found: Findings, places: BiasPlaces) -> None:
    """Constants move only where a weight is read by such convolutions alone, which all see the same constants."""
    by_weight: dict[str, list[Padded]] = {}
    for each in found.padded:
        by_weight.setdefault(each.weight, []).append(each)
    reads = sum((tape.reads for tape in places.tapes.values()), Counter[str]())
    for weight, calls in by_weight.items():
        first = calls[0]
        alone = weight not in places.aliases and reads[weight] == len(calls)
        same = all(np.array_equal(first.known, o.known) and torch.equal(_believed(first), _believed(o)) for o in calls[1:])
        if not (alone and same):
            for each in calls:
                found.blocked[each.classes[each.classes >= 0]] |= found.moving[each.classes[each.classes >= 0]]


def _believed(each: Padded) -> Tensor:
    return torch.where(torch.from_numpy(each.known), each.values, 0)


def carrier(found: Findings, classes: Atoms) -> int | None:
    """The position among these classes of the one that can carry all: it is read, and not zero, wherever another is; the largest one."""
    best, strength = None, 0.0
    tables = [(each, _columns(each, classes)) for each in found.padded]
    tables = [(each, columns) for each, columns in tables if (columns >= 0).any()]
    for position in range(len(classes)):
        least = float("inf")
        for each, columns in tables:
            column = columns[position]
            usable = column >= 0 and each.known[column]
            largest = float(_believed(each)[torch.from_numpy(columns[columns >= 0])].abs().max())
            least = min(least, float(each.values[column].abs()) / largest if usable and largest else 0.0)
        if least > strength:
            best, strength = position, least
    return best


def moves(found: Findings, target: int, gone: Atoms) -> list[Move]:
    """What happens to weights when the class `target` carries the classes `gone`."""
    made: dict[str, Move] = {}
    for each in found.padded:
        columns = _columns(each, gone)
        columns = columns[(columns >= 0) & each.known[columns]]
        if not len(columns) or each.weight in made:
            continue
        column = int(_columns(each, np.array([target]))[0])
        ratios = each.values[torch.from_numpy(columns)].double() / each.values[column].double()
        made[each.weight] = Move(each.weight, column, columns, ratios)
    return list(made.values())


def _columns(each: Padded, classes: Atoms) -> Atoms:
    """The channel of each class, or -1."""
    channel = {int(c): i for i, c in enumerate(each.classes.tolist()) if c >= 0}
    return np.array([channel.get(int(c), -1) for c in classes.tolist()], dtype=np.int64)
