"""Measured times of single layers over a grid of widths: kept on disk, extended when one is missing, never guessed to be nothing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from fxsparse.engines.base import Engine
from fxsparse.engines.layers import Convolution, Layer, Pair, Product, runnable
from fxsparse.engines.measure import Timing, compare
from fxsparse.errors import BudgetError

STEPS = (1, 2, 4, 8, 16, 32)
GAIN = 0.5  # of what the step removes; in a staircase, smaller steps gain nothing, and whole ones all
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
            timed = self._measured([layer], runs=self.runs, seconds=self.seconds, most=5.0)
            self.times[key] = max(timed[key].median, 1e-6)
        return self.times[key]

    def together(self, layers: Sequence[Layer]) -> list[float]:
        """Times that are to be compared with each other: measured in turn, all of them, if one is missing."""
        if any(_key(layer) not in self.times for layer in layers):
            timed = self._measured(layers, runs=3 * self.runs, seconds=2 * self.seconds, most=10.0)
            self.times |= {key: max(timing.percentile(20), 1e-6) for key, timing in timed.items()}  # other work only ever adds
        return [self.time(layer) for layer in layers]

    def save(self) -> None:
        """Write what was measured, beside what others have written meanwhile; an interrupted write leaves the old file."""
        if self.path is None:
            return
        if self.path.exists():
            self.times = {**_read(self.path, self.about), **self.times}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self.path.parent, prefix=".latency-")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"format": "fxsparse-latency/1", "about": self.about, "times": self.times}, file, indent=0, sort_keys=True)
            os.replace(draft, self.path)
        except OSError as error:
            raise BudgetError(
                f"the latency table {self.path} cannot be written: {error.strerror}; let FXSPARSE_CACHE name a folder that can be"
            ) from error

    def _measured(self, layers: Sequence[Layer], runs: int, seconds: float, most: float) -> dict[str, Timing]:
        contenders: dict[str, Callable[[], object]] = {}
        for layer in layers:
            try:
                contenders[_key(layer)] = once = runnable(self.engine, layer)
                once()
            except Exception as error:  # each engine has its own
                said = str(error).strip().splitlines() or [type(error).__name__]
                raise BudgetError(f"{self.engine.name} does not run {layer}, so its time is not known: {said[0][:200]}") from error
        return compare(contenders, runs=runs, seconds=seconds, warmup=0.004, most=most)


Single = Convolution | Product


def widths_of(layer: Single) -> tuple[int, int]:
    return (layer.inputs, layer.outputs) if isinstance(layer, Convolution) else (layer.inner, layer.columns)


def staircase(table: LatencyTable, layers: Sequence[Layer]) -> int:
    """In which steps widths should go: the smallest step from which on a layer becomes about as much faster as it becomes smaller.

    Asked are the two layers that compute most, a convolution as a pair, and no larger than they must be to show it. Where they disagree
    the smaller one counts: noise makes a step too large rather than too small.
    """
    wide: list[Convolution | Product] = [each for each in dict.fromkeys(layers) if _is_plain(each)]
    asked = sorted(wide, key=lambda each: -each.macs)[:2]
    return min((_step(table, _between(each) if isinstance(each, Convolution) else _columns(each)) for each in asked), default=1)


def _step(table: LatencyTable, narrower: Callable[[int], Layer]) -> int:
    full, *times = table.together([narrower(less) for less in (0, *STEPS)])
    gains = [(full - time) / (full * step / _width(narrower(0))) for step, time in zip(STEPS, times, strict=True)]
    good = [step for i, step in enumerate(STEPS) if min(gains[i:]) >= GAIN]  # noise may let one small step look good
    return min(good, default=STEPS[-1])


def _between(layer: Convolution) -> Callable[[int], Layer]:
    width, image = _capped(layer.outputs), tuple(min(size, 14) for size in layer.image)
    return lambda less: Pair(layer.batch, width, width - less, image)


def _columns(layer: Product) -> Callable[[int], Layer]:
    width = _capped(layer.columns)
    return lambda less: Product(1, min(layer.rows, 64), min(layer.inner, 512), width - less, True)


def _capped(width: int) -> int:
    return min(width, 96) // STEPS[-1] * STEPS[-1]  # a power of two would be slow for reasons of its own


def _width(layer: Layer) -> int:
    return layer.width if isinstance(layer, Pair) else widths_of(layer)[1]


def _is_plain(layer: Layer) -> TypeGuard[Convolution | Product]:
    if isinstance(layer, Convolution):
        return len(layer.image) == 2 and min(layer.image) >= 4 and layer.outputs >= 64 and layer.groups == 1 and not layer.transposed
    return isinstance(layer, Product) and layer.weights and layer.columns >= 64


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
