"""Predicted latency of a network at any widths: tables of its layers, and what is left in proportion to the activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxsparse.axes.factors import Axis
from fxsparse.budgets.latency_surface import Surface, surface
from fxsparse.budgets.latency_table import LatencyTable, Progress, Single, staircase
from fxsparse.budgets.meter import Factors, Products, Widths
from fxsparse.channels.coordinates import Coordinates
from fxsparse.channels.groups import Structure
from fxsparse.engines.layers import Convolution, Product
from fxsparse.engines.profile import LayerTime
from fxsparse.tracing.tape import Call, Ref

OFTEN = 100  # layers, after which the table is saved


class LatencyMeter:
    """Milliseconds at any widths. `calibrate` says what the whole network takes where it was measured, and what each layer takes in it."""

    def __init__(self, structure: Structure, table: LatencyTable, progress: Progress | None = None) -> None:
        self.structure = structure
        self.names = list(structure.groups)
        self.position = {name: i for i, name in enumerate(self.names)}
        factors = Factors(Coordinates(structure))
        found = [(layer, axes) for call, axes_of in _calls(structure) for layer, axes in _layers(call, axes_of)]
        self.layers: list[Single] = [layer for layer, _ in found]
        self.step = staircase(table, self.layers)
        surfaces: dict[Single, Surface] = {}
        self.surfaces = [surfaces.setdefault(layer, surface(table, layer, self.step)) for layer in self.layers]
        points = list(dict.fromkeys(point for each in surfaces.values() for point in each.points()))
        for done, point in enumerate(points):
            table.time(point)
            if done % OFTEN == OFTEN - 1:
                table.save()  # an interrupted run has measured for something
            if progress is not None:
                progress(done + 1, len(points))
        table.save()
        self._ins = Products(factors, [axes[0] for _, axes in found])
        self._outs = Products(factors, [axes[1] for _, axes in found])
        self._inners = Products(factors, [axes[2] for _, axes in found])
        self._times = Products(factors, [axes[3] for _, axes in found])
        self._activations = Products(factors, _activations(structure))
        self.factor = np.ones(len(self.layers))  # of a layer's time, where it is faster inside the network than alone
        self.waiting = np.zeros(len(self.layers))  # milliseconds more inside, where its weights have left the caches: as many as weights
        self.sizes = factors.compile()
        dense = self.sizes(factors.dense)
        self.dense_times = self._times(dense)
        self.dense_parts = self._inners(dense) * self._outs(dense) * self.dense_times
        self.dense_rest = 0.0
        self.dense_moved = max(1.0, float(self._activations(dense).sum()))
        self.scale = 1.0

    def widths(self, living: Any) -> Widths:
        return np.array([len(living[name]) for name in self.names], dtype=np.float64)

    def of_layers(self, widths: Widths) -> float:
        """What the tables say, without the rest."""
        sizes = self.sizes(widths)
        return float((self._alone(sizes) * self.factor + self.waiting * self._left(sizes)).sum())

    def calibrate(self, widths: Widths, measured: float, inside: Sequence[float] | None = None) -> None:
        """Lay the difference to a measurement on what the tables do not hold, or scale them down where they hold too much.

        `inside` is what each layer takes inside the network: weights have left the caches there, and layouts need no change.
        """
        sizes = self.sizes(widths)
        self.factor, self.waiting = np.ones(len(self.layers)), np.zeros(len(self.layers))
        if inside is not None:
            alone, found = self._alone(sizes), np.array(inside)
            self.factor = np.minimum(1.0, found / alone)
            self.waiting = np.maximum(0.0, found - alone) / self._left(sizes)
        layers = self.of_layers(widths)
        self.scale = min(1.0, measured / layers) if layers > 0 else 1.0
        moved = float(self._activations(sizes).sum())
        self.dense_rest = max(0.0, measured - layers * self.scale) * self.dense_moved / max(moved, 1.0)

    def paired(self, widths: Widths, profile: Sequence[LayerTime]) -> list[float] | None:
        """The profile's time of each layer here; None where the engine made other layers of the network than these."""
        heavy = sorted((each for each in profile if each.macs), key=lambda each: each.place)
        macs = np.array([layer.macs for layer in self.layers]) * self._left(self.sizes(widths))
        same = len(heavy) == len(macs) and np.allclose([each.macs for each in heavy], macs, rtol=1e-6)
        return [max(each.milliseconds, 1e-6) for each in heavy] if same else None

    def __call__(self, widths: Widths) -> float:
        moved = float(self._activations(self.sizes(widths)).sum()) / self.dense_moved
        return self.of_layers(widths) * self.scale + self.dense_rest * moved

    def _alone(self, sizes: Widths) -> Widths:
        """Each layer as the tables have it."""
        ins, outs, inners = (np.rint(each(sizes)).astype(int).tolist() for each in (self._ins, self._outs, self._inners))
        times: Widths = np.array([each(i, o, n) for each, i, o, n in zip(self.surfaces, ins, outs, inners, strict=True)])
        return times * self._times(sizes) / self.dense_times

    def _left(self, sizes: Widths) -> Widths:
        """The share of each layer's MACs, and of its weights, that is left."""
        made: Widths = self._inners(sizes) * self._outs(sizes) * self._times(sizes) / self.dense_parts
        return made


def _calls(structure: Structure) -> list[tuple[Call, Any]]:
    reading = structure.reading.tapes[0]

    def axes_of(ref: Any) -> Sequence[Axis]:
        return reading.axes[ref.id]

    return [(call, axes_of) for call, said in zip(reading.tape.calls, reading.calls, strict=True) if said.contractions]


def _size(axis: Axis) -> int:
    return math.prod(factor.size for factor in axis)


def _layers(call: Call, axes_of: Any) -> list[tuple[Single, tuple[list[Axis], ...]]]:
    """The layer of a call, and the axes that are its input width, its output width, the input width of one of its groups, and how often
    it is done. A call that is none of these is part of the rest."""
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
        return [(layer, ([axes[0][1]], [outputs], [axes[0][1] if transposed else axes[1][1]], []))]
    if call.name in ("aten.addmm", "aten.mm", "aten.linear") and len(axes) >= 2:
        a, b = (axes[1], axes[2]) if call.name == "aten.addmm" else (axes[0], axes[1])
        columns = b[0] if call.name == "aten.linear" else b[1]
        rows = math.prod(_size(axis) for axis in a[:-1])
        return [(Product(1, rows, _size(a[-1]), _size(columns), True), ([a[-1]], [columns], [a[-1]], []))]
    if call.name in ("aten.bmm", "aten.baddbmm"):
        a, b = axes[-2], axes[-1]
        layer = Product(_size(a[0]), _size(a[1]), _size(a[2]), _size(b[2]), False)
        return [(layer, ([a[2]], [b[2]], [a[2]], [a[0]]))]  # heads lie in the batch
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
