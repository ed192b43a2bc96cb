"""The time of one layer over its widths: measured on a grid, linear in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fxsparse.budgets.latency_table import LatencyTable, Single, widths_of
from fxsparse.engines.layers import Convolution, Product

GRID = (0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)


class Surface:
    """Over input and output widths. `inner`, the input width of one group, says nothing more here."""

    def __init__(self, table: LatencyTable, layer: Single, step: int) -> None:
        self.layer, self.table = layer, table
        dense_in, dense_out = widths_of(layer)
        self.ins, self.outs = _grid(dense_in, step), _grid(dense_out, step)
        self.known: dict[tuple[int, int, int], float] = {}

    def points(self) -> list[Single]:
        """Everything that is measured for it."""
        return [self.narrowed(i, o) for i in self.ins for o in self.outs]

    def __call__(self, inputs: int, outputs: int, inner: int) -> float:
        key = (inputs, outputs, inner)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.between(*key)
        return found

    def between(self, inputs: int, outputs: int, inner: int) -> float:
        return _bilinear(lambda i, o: self.table.time(self.narrowed(i, o)), self.ins, self.outs, inputs, outputs)

    def narrowed(self, inputs: int, outputs: int) -> Single:
        """The layer with other widths."""
        if isinstance(self.layer, Product):
            return replace(self.layer, inner=inputs, columns=outputs)
        return replace(self.layer, inputs=inputs, outputs=outputs, inner=inputs)


class Depthwise(Surface):
    """Each input channel has filters of its own, so that input and output widths are one."""

    layer: Convolution

    def points(self) -> list[Single]:
        return [self.narrowed(i, self._outputs(i)) for i in self.ins]

    def between(self, inputs: int, outputs: int, inner: int) -> float:
        return float(np.interp(inputs, self.ins, [self.table.time(each) for each in self.points()]))

    def narrowed(self, inputs: int, outputs: int) -> Single:
        return replace(self.layer, inputs=inputs, outputs=outputs)

    def _outputs(self, inputs: int) -> int:
        dense_in, dense_out = widths_of(self.layer)
        return max(1, inputs * dense_out // dense_in)


class Grouped(Surface):
    """A grouped convolution can lose groups, and channels inside all of them. Measured are both by themselves, and multiplied."""

    layer: Convolution

    def __init__(self, table: LatencyTable, layer: Convolution, step: int) -> None:
        super().__init__(table, layer, step)
        self.inners, self.outers = _grid(layer.inner, step), _grid(layer.outputs // layer.groups, step)
        self.counts = _grid(layer.groups, 1)

    def points(self) -> list[Single]:
        whole = self.layer
        fewer = [self._of(count, whole.inner, whole.outputs // whole.groups) for count in self.counts]
        return [*fewer, *(self._of(whole.groups, i, o) for i in self.inners for o in self.outers)]

    def between(self, inputs: int, outputs: int, inner: int) -> float:
        whole = self.layer
        outer = whole.outputs // whole.groups
        count = max(1, round(inputs / max(1, inner)))
        by_count = float(np.interp(count, self.counts, [self.table.time(self._of(c, whole.inner, outer)) for c in self.counts]))
        by_width = _bilinear(
            lambda i, o: self.table.time(self._of(whole.groups, i, o)), self.inners, self.outers, inner, max(1, round(outputs / count))
        )
        return by_count * by_width / self.table.time(whole)

    def _of(self, count: int, inner: int, outer: int) -> Convolution:
        return replace(self.layer, inputs=count * inner, outputs=count * outer, inner=inner)


def surface(table: LatencyTable, layer: Single, step: int) -> Surface:
    """The surface of a layer of any kind."""
    if isinstance(layer, Convolution) and layer.groups > 1:
        return Depthwise(table, layer, step) if layer.inner == 1 else Grouped(table, layer, step)
    return Surface(table, layer, step)


def step_within(width: int, step: int) -> int:
    """The engine's step, or what of it a width has at least four of: halves, as blocks are halved."""
    most = max(1, min(step, width // 4))
    return 1 << (most.bit_length() - 1)


def _grid(dense: int, step: int) -> list[int]:
    unit = step_within(dense, step)
    found = {round(part * dense / unit) * unit for part in GRID}
    return sorted({dense, min(dense, unit), *(width for width in found if 0 < width < dense)})


def _bilinear(time: Callable[[int, int], float], ins: list[int], outs: list[int], inputs: int, outputs: int) -> float:
    (a, b, s), (c, d, t) = _around(ins, inputs), _around(outs, outputs)
    low = time(a, c) * (1 - t) + time(a, d) * t
    high = time(b, c) * (1 - t) + time(b, d) * t
    return low * (1 - s) + high * s


def _around(grid: list[int], width: int) -> tuple[int, int, float]:
    """The neighbours of a width, and where between them it lies."""
    if width <= grid[0]:
        return grid[0], grid[0], 0.0
    for low, high in itertools.pairwise(grid):
        if width <= high:
            return low, high, (width - low) / (high - low)
    return grid[-1], grid[-1], 0.0
