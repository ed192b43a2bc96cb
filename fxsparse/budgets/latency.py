"""Predicted latency of a network at any widths: tables of its layers, and what is left in proportion to the activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxsparse.axes.factors import Axis
from fxsparse.budgets.latency_table import LatencyTable, Progress, Single, Surface, staircase
from fxsparse.budgets.meter import Factors, Products, Widths
from fxsparse.channels.coordinates import Coordinates
from fxsparse.channels.groups import Structure
from fxsparse.engines.layers import Convolution, Product
from fxsparse.tracing.tape import Call, Ref


class LatencyMeter:
    """Milliseconds at any widths. `calibrate` says what the whole network takes where it was measured."""

    def __init__(self, structure: Structure, table: LatencyTable, progress: Progress | None = None) -> None:
        self.structure = structure
        self.names = list(structure.groups)
        self.position = {name: i for i, name in enumerate(self.names)}
        factors = Factors(Coordinates(structure))
        found = [(layer, axes) for call, axes_of in _calls(structure) for layer, axes in _layers(call, axes_of)]
        self.layers: list[Single] = [layer for layer, _ in found]
        self.step = staircase(table, list(self.layers))
        surfaces: dict[Single, Surface] = {}
        self.surfaces = [surfaces.setdefault(layer, Surface(table, layer, self.step)) for layer in self.layers]
        points = list(dict.fromkeys(point for surface in surfaces.values() for point in surface.points()))
        for done, point in enumerate(points):
            table.time(point)
            if progress is not None:
                progress(done + 1, len(points))
        table.save()
        self._ins = Products(factors, [axes[0] for _, axes in found])
        self._outs = Products(factors, [axes[1] for _, axes in found])
        self._times = Products(factors, [axes[2] for _, axes in found])
        self._activations = Products(factors, _activations(structure))
        self.sizes = factors.compile()
        self.dense_times = self._times(self.sizes(factors.dense))
        self.dense_rest = 0.0
        self.dense_moved = max(1.0, float(self._activations(self.sizes(factors.dense)).sum()))
        self.scale = 1.0

    def widths(self, living: Any) -> Widths:
        return np.array([len(living[name]) for name in self.names], dtype=np.float64)

    def of_layers(self, widths: Widths) -> float:
        """What the tables say, without the rest."""
        sizes = self.sizes(widths)
        ins, outs = np.rint(self._ins(sizes)).astype(int).tolist(), np.rint(self._outs(sizes)).astype(int).tolist()
        times = (self._times(sizes) / self.dense_times).tolist()
        return float(sum(surface(i, o) * t for surface, i, o, t in zip(self.surfaces, ins, outs, times, strict=True)))

    def calibrate(self, widths: Widths, measured: float) -> None:
        """Lay the difference to a measurement on what the tables do not hold, or scale them down where they hold too much."""
        layers = self.of_layers(widths)
        self.scale = min(1.0, measured / layers) if layers > 0 else 1.0
        moved = float(self._activations(self.sizes(widths)).sum())
        self.dense_rest = max(0.0, measured - layers * self.scale) * self.dense_moved / max(moved, 1.0)

    def __call__(self, widths: Widths) -> float:
        moved = float(self._activations(self.sizes(widths)).sum()) / self.dense_moved
        return self.of_layers(widths) * self.scale + self.dense_rest * moved


def _calls(structure: Structure) -> list[tuple[Call, Any]]:
    reading = structure.reading.tapes[0]

    def axes_of(ref: Any) -> Sequence[Axis]:
        return reading.axes[ref.id]

    return [(call, axes_of) for call, said in zip(reading.tape.calls, reading.calls, strict=True) if said.contractions]


def _size(axis: Axis) -> int:
    return math.prod(factor.size for factor in axis)


def _layers(call: Call, axes_of: Any) -> list[tuple[Single, tuple[list[Axis], list[Axis], list[Axis]]]]:
    """The layer of a call, and the axes that are its input width, its output width, and how often it is done. A call that is none of
    these is part of the rest."""
    tensors = [ref for ref in call.args if isinstance(ref, Ref)]
    axes = [axes_of(ref) for ref in tensors]
    shapes = [[_size(axis) for axis in each] for each in axes]
    if call.name == "aten.convolution" and len(axes) >= 2:
        transposed = bool(call.args[6])
        batch, channels, *image = shapes[0]
        outputs = axes_of(call.results[0])[1]
        inner = shapes[1][0] // max(1, int(call.args[8])) if transposed else shapes[1][1]
        dims = len(image)
        stride, padding, dilation = (tuple(int(v) for v in (list(call.args[i]) * dims)[:dims]) for i in (3, 4, 5))
        layer: Single = Convolution(
            batch, channels, _size(outputs), inner, tuple(image), tuple(shapes[1][2:]), stride, padding, dilation, transposed
        )
        return [(layer, ([axes[0][1]], [outputs], []))]
    if call.name in ("aten.addmm", "aten.mm", "aten.linear") and len(axes) >= 2:
        a, b = (axes[1], axes[2]) if call.name == "aten.addmm" else (axes[0], axes[1])
        columns = b[0] if call.name == "aten.linear" else b[1]
        rows = math.prod(_size(axis) for axis in a[:-1])
        return [(Product(1, rows, _size(a[-1]), _size(columns), True), ([a[-1]], [columns], []))]
    if call.name in ("aten.bmm", "aten.baddbmm"):
        a, b = axes[-2], axes[-1]
        layer = Product(_size(a[0]), _size(a[1]), _size(a[2]), _size(b[2]), False)
        return [(layer, ([a[2]], [b[2]], [a[0]]))]  # heads lie in the batch
    return []


def _activations(structure: Structure) -> list[Sequence[Axis]]:
    reading = structure.reading.tapes[0]
    return [
        reading.axes[ref.id]
        for call, said in zip(reading.tape.calls, reading.calls, strict=True)
        if not said.movement
        for ref in call.results
        if isinstance(ref, Ref) and ref.id in reading.axes
    ]
