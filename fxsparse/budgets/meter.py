"""What a network costs at any widths of its groups, in microseconds.

The units of a group are interchangeable, so that the size of a factor is a polynomial of the widths: a coordinate is alive when the units
that it hangs on are, and so many coordinates hang on the same groups. Costs are sums of products of such sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fxsparse.axes.factors import Axis, Factor
from fxsparse.axes.reader import TapeReading
from fxsparse.channels.coordinates import Coordinates
from fxsparse.channels.groups import Structure

Widths = npt.NDArray[np.float64]  # of each group, in the order of the structure


class Factors:
    """The sizes of all factors as functions of the widths."""

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates
        self.dense = np.array([len(coordinates.structure.classes[name]) for name in coordinates.names], dtype=np.float64)
        self.number: dict[int, int] = {}
        self.terms: list[tuple[int, float, tuple[int, ...]]] = []  # factor, coefficient, groups

    def add(self, factor: Factor) -> int:
        """The factor's number."""
        known = self.number.get(factor.uid)
        if known is not None:
            return known
        number = self.number[factor.uid] = len(self.number)
        if factor.atoms is None or not len(factor.atoms):
            self.terms.append((number, float(factor.size), ()))
            return number
        slots = self.coordinates.generators.of(self.coordinates.structure.factor_classes(factor))
        groups = np.stack([np.where(slot >= 0, self.coordinates.group_of[slot], -1) for slot in slots])
        kinds, counts = np.unique(np.sort(groups, axis=0), axis=1, return_counts=True)
        for kind, count in zip(kinds.T.tolist(), counts.tolist(), strict=True):
            parts = tuple(group for group in kind if group >= 0)
            self.terms.append((number, count / math.prod(self.dense[group] for group in parts), parts))
        return number

    def compile(self) -> Callable[[Widths], Widths]:
        degree = max((len(parts) for _, _, parts in self.terms), default=0)
        factor = np.array([number for number, _, _ in self.terms], dtype=np.int64)
        coefficient = np.array([c for _, c, _ in self.terms])
        one = len(self.dense)  # a group of width 1 that fills up
        groups = np.array([(*parts, *[one] * (degree - len(parts))) for _, _, parts in self.terms], dtype=np.int64).reshape(
            len(factor), degree
        )
        count = len(self.number)

        def sizes(widths: Widths) -> Widths:
            filled = np.append(widths, 1.0)
            return np.bincount(factor, weights=coefficient * filled[groups].prod(axis=1), minlength=count).astype(np.float64)

        return sizes


class Products:
    """Products of factors, all at once."""

    def __init__(self, factors: Factors, products: Iterable[Sequence[Axis]]) -> None:
        lists = [[factors.add(f) for axis in axes for f in axis] for axes in products]
        self.flat = np.array([n for line in lists for n in line], dtype=np.int64)
        self.lengths = np.array([len(line) for line in lists], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64) if lists else self.lengths

    def __call__(self, sizes: Widths) -> Widths:
        if not len(self.lengths):
            return np.zeros(0)
        values = np.append(sizes[self.flat], 1.0)
        made: Widths = np.multiply.reduceat(values, self.starts)
        return np.where(self.lengths == 0, 1.0, made)


class Meter:
    """One measure of a network at any widths."""

    def __init__(self, structure: Structure, measure: str, coordinates: Coordinates | None = None) -> None:
        self.structure = structure
        self.measure = measure
        self.names = list(structure.groups)
        self.position = {name: i for i, name in enumerate(self.names)}
        factors = Factors(coordinates or Coordinates(structure))
        self.total: Callable[[Widths], float] = MEASURES[measure](structure, factors)
        self.sizes = factors.compile()

    def __call__(self, widths: Widths) -> float:
        return self.total(self.sizes(widths)) if self.measure != "units" else self._units(widths)

    def _units(self, widths: Widths) -> float:
        prunable = [self.structure.groups[name].prunable for name in self.names]
        return float(widths[prunable].sum())

    def widths(self, living: Mapping[str, Sequence[int]]) -> Widths:
        """The widths of these living units."""
        return np.array([len(living[name]) for name in self.names], dtype=np.float64)

    def marginal(self, widths: Widths, groups: Sequence[int]) -> Widths:
        """What one unit less of each of these groups would save, everything else staying as it is."""
        now = self(widths)
        saved = np.zeros(len(groups))
        for i, group in enumerate(groups):
            fewer = widths.copy()
            fewer[group] -= 1
            saved[i] = now - self(fewer)
        return saved


# ---- the measures ---------------------------------------------------------------------------------------------------------------


def _macs(structure: Structure, factors: Factors) -> Callable[[Widths], float]:
    calls = structure.reading.tapes[0].calls
    products = Products(factors, (contraction.axes for call in calls for contraction in call.contractions))
    return lambda sizes: float(products(sizes).sum())


def _parameters(structure: Structure, factors: Factors) -> Callable[[Widths], float]:
    products = Products(factors, (structure.reading.tensors[key] for key in _keys(structure, "parameter")))
    return lambda sizes: float(products(sizes).sum())


def _keys(structure: Structure, *origins: str) -> list[str]:
    tapes = structure.reading.tapes
    found = {
        each.tape.values[ref.id].key for each in tapes for ref in each.tape.keys.values() if each.tape.values[ref.id].origin in origins
    }
    return sorted(key for key in found if key is not None and key in structure.reading.tensors)


def _memory(structure: Structure, factors: Factors) -> Callable[[Widths], float]:
    """Bytes of parameters and buffers, and of the activations that live at once when most do. Views take nothing."""
    reading = structure.reading.tapes[0]
    width = {key: reading.tape.values[ref.id].dtype.itemsize for key, ref in reading.tape.keys.items()}
    keys = _keys(structure, "parameter", "buffer")
    weights = Products(factors, (structure.reading.tensors[key] for key in keys))
    bytes_of = np.array([width.get(key, 4) for key in keys], dtype=np.float64)
    spans = _spans(reading)
    values = [value for value in spans if value in reading.axes]
    activations = Products(factors, (reading.axes[value] for value in values))
    each = np.array([reading.tape.values[value].dtype.itemsize for value in values], dtype=np.float64)
    born = np.array([spans[value][0] for value in values], dtype=np.int64)
    gone = np.array([spans[value][1] for value in values], dtype=np.int64) + 1
    length = len(reading.tape.calls) + 2

    def total(sizes: Widths) -> float:
        held = activations(sizes) * each
        steps = np.bincount(born, weights=held, minlength=length) - np.bincount(gone, weights=held, minlength=length)
        peak = float(np.cumsum(steps).max()) if len(values) else 0.0
        return float((weights(sizes) * bytes_of).sum()) + peak

    return total


def _spans(reading: TapeReading) -> dict[int, tuple[int, int]]:
    """Activation -> the calls that make it and last use it. A view lives in the tensor that it looks at."""
    tape = reading.tape
    base: dict[int, int] = {}
    spans: dict[int, tuple[int, int]] = {ref.id: (0, 0) for ref in tape.inputs}
    for position, (call, said) in enumerate(zip(tape.calls, reading.calls, strict=True)):
        used = [ref.id for ref in call.reads]
        for value in used:
            owner = base.get(value, value)
            if owner in spans:
                spans[owner] = (spans[owner][0], position)
        for ref in call.makes:
            if ref.id in used or ref.id in spans or tape.values[ref.id].key is not None:
                continue
            if said.movement and used:
                base[ref.id] = base.get(used[0], used[0])
            else:
                spans[ref.id] = (position, position)
    return spans


def _units(structure: Structure, factors: Factors) -> Callable[[Widths], float]:
    return lambda sizes: 0.0  # counted from the widths themselves


MEASURES: dict[str, Callable[[Structure, Factors], Callable[[Widths], float]]] = {
    "units": _units,
    "parameters": _parameters,
    "macs": _macs,
    "memory": _memory,
}
