"""Measured times of single layers over a grid of widths: kept on disk, extended when one is missing, never guessed to be nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from fxsparse.engines.base import Engine
from fxsparse.engines.layers import Convolution, Layer, Pair, Product, runnable
from fxsparse.engines.measure import compare
from fxsparse.errors import BudgetError

GRID = (0.0625, 0.125, 0.25, 0.5, 0.75, 1.0)
STEPS = (1, 2, 4, 8, 16, 32)
Progress = Callable[[int, int], object]  # layers measured, layers in all


@dataclass
class LatencyTable:
    """The times of layers on one engine of one machine, in milliseconds."""

    engine: Engine
    about: dict[str, Any]
    path: Path | None = None
    times: dict[str, float] = field(default_factory=dict)
    runs: int = 7
    seconds: float = 0.02

    @classmethod
    def open(cls, engine: Engine, folder: Path | None = None) -> LatencyTable:
        """The table of an engine on this machine, with what was measured before."""
        about = {**machine(), "engine": engine.name, "options": asdict(engine), "version": _version(engine.name)}  # type: ignore[call-overload]
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        path = (folder or cache_folder()) / f"latency-{engine.name}-{name}.json"
        table = cls(engine, about, path)
        if path.exists():
            table.times = _read(path, about)
        return table

    def time(self, layer: Layer) -> float:
        """Measured, now or before."""
        key = _key(layer)
        found = self.times.get(key)
        if found is None:
            once = runnable(self.engine, layer)
            found = compare({"": once}, runs=self.runs, seconds=self.seconds, warmup=0.004, most=5.0)[""].median
            self.times[key] = max(found, 1e-6)
        return self.times[key]

    def save(self) -> None:
        """Write what was measured; an interrupted write leaves the old file."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=self.path.parent, prefix=".latency-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": "fxsparse-latency/1", "about": self.about, "times": self.times}, file, indent=0, sort_keys=True)
        os.replace(draft, self.path)


Single = Convolution | Product


class Surface:
    """The time of one layer over its input and output widths: measured on a grid, linear in between."""

    def __init__(self, table: LatencyTable, layer: Single, step: int) -> None:
        self.layer, self.table = layer, table
        dense_in, dense_out = widths_of(layer)
        self.ins = _grid(dense_in, step, _quantum(layer))
        self.outs = _grid(dense_out, step, _quantum(layer))
        self.tied = isinstance(layer, Convolution) and layer.inner == 1 and layer.groups > 1
        self.known: dict[tuple[int, int], float] = {}
        if self.tied:
            self.outs = self.ins if dense_in == dense_out else self.outs

    def points(self) -> list[Single]:
        """Everything that is measured for it."""
        if self.tied:
            return [narrowed(self.layer, i, _scaled(self.layer, i)) for i in self.ins]
        return [narrowed(self.layer, i, o) for i in self.ins for o in self.outs]

    def __call__(self, inputs: int, outputs: int) -> float:
        found = self.known.get((inputs, outputs))
        if found is None:
            found = self.known[inputs, outputs] = self._between(inputs, outputs)
        return found

    def _between(self, inputs: int, outputs: int) -> float:
        if self.tied:
            values = [self.table.time(narrowed(self.layer, i, _scaled(self.layer, i))) for i in self.ins]
            return float(np.interp(inputs, self.ins, values))
        (a, b, s), (c, d, t) = _around(self.ins, inputs), _around(self.outs, outputs)
        corner = [[self.table.time(narrowed(self.layer, i, o)) for o in (c, d)] for i in (a, b)]
        low = corner[0][0] * (1 - t) + corner[0][1] * t
        high = corner[1][0] * (1 - t) + corner[1][1] * t
        return low * (1 - s) + high * s


def widths_of(layer: Single) -> tuple[int, int]:
    return (layer.inputs, layer.outputs) if isinstance(layer, Convolution) else (layer.inner, layer.columns)


def narrowed(layer: Single, inputs: int, outputs: int) -> Single:
    """The layer with other widths; the groups of a grouped convolution keep their size, and become fewer."""
    if isinstance(layer, Product):
        return replace(layer, inner=inputs, columns=outputs)
    inner = inputs if layer.groups == 1 else layer.inner
    return replace(layer, inputs=inputs, outputs=outputs, inner=inner)


def _quantum(layer: Single) -> int:
    """Widths of grouped convolutions go in whole groups."""
    if isinstance(layer, Convolution) and layer.groups > 1:
        return max(layer.inner, layer.outputs // layer.groups)
    return 1


def _scaled(layer: Single, inputs: int) -> int:
    dense_in, dense_out = widths_of(layer)
    return max(1, inputs * dense_out // dense_in)


def _grid(dense: int, step: int, quantum: int) -> list[int]:
    step = min(step, max(1, dense // 4))  # a narrow layer has fewer steps than four of the engine's
    unit = max(step, quantum) if quantum == 1 or step % quantum == 0 else quantum
    found = {dense}
    for part in GRID:
        width = round(part * dense / unit) * unit
        if 0 < width < dense:
            found.add(width)
    if dense > 1:
        found.add(min(dense, unit))
    return sorted(found)


def _around(grid: list[int], width: int) -> tuple[int, int, float]:
    """The neighbours of a width, and where between them it lies."""
    if width <= grid[0]:
        return grid[0], grid[0], 0.0
    for low, high in itertools.pairwise(grid):
        if width <= high:
            return low, high, (width - low) / (high - low)
    return grid[-1], grid[-1], 0.0


def staircase(table: LatencyTable, layers: list[Layer]) -> int:
    """In which steps widths should go: the smallest step that makes a layer as much faster as it makes it smaller, or nearly so."""
    plain = {(each.outputs, each.image): each for each in layers if _is_plain(each)}
    asked = sorted(plain.values(), key=lambda each: -each.inputs * each.outputs * int(np.prod(each.image)))[:2]
    votes = []
    for layer in asked:
        width = layer.outputs // STEPS[-1] * STEPS[-1]
        pairs = {s: Pair(layer.batch, layer.outputs, width - s, layer.image) for s in (0, *STEPS)}
        full = table.time(pairs[0])
        gains = {s: (full - table.time(pairs[s])) / (full * s / width) for s in STEPS}
        votes.append(next((s for s in STEPS if gains[s] >= 0.7), STEPS[-1]))
    return int(max(votes)) if votes else 1


def _is_plain(layer: Layer) -> TypeGuard[Convolution]:
    large = isinstance(layer, Convolution) and len(layer.image) == 2 and layer.outputs >= 2 * STEPS[-1]
    return large and isinstance(layer, Convolution) and layer.groups == 1 and not layer.transposed


def machine() -> dict[str, Any]:
    """What a time depends on beside the engine."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": name, "cores": os.cpu_count(), "system": platform.system()}


def cache_folder() -> Path:
    """Where tables are kept: $FXSPARSE_CACHE, or the user's cache folder."""
    chosen = os.environ.get("FXSPARSE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fxsparse"


def _version(engine: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch" if engine == "inductor" else engine)
    except PackageNotFoundError:
        return "unknown"


def _key(layer: Layer) -> str:
    values = [f"{k}={'x'.join(map(str, v)) if isinstance(v, tuple) else int(v)}" for k, v in asdict(layer).items()]
    return f"{type(layer).__name__} {' '.join(values)}"


def _read(path: Path, about: dict[str, Any]) -> dict[str, float]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != "fxsparse-latency/1" or said["about"] != about:
            raise ValueError("it is of another engine or machine")
        times = {str(key): float(value) for key, value in said["times"].items()}
        if not all(0 < value < 1e9 for value in times.values()):
            raise ValueError("it holds times that are none")
        return times
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BudgetError(f"the latency table {path} cannot be used: {error}; delete it, and it is measured again") from error
