"""One way to measure latency, for all engines: warm, often enough, long enough, contenders in turn.

Contenders run interleaved in one process, in a new order each round, so that a machine that slows down slows all of them. What is reported
is the median with its spread, and ratios with a confidence interval; a ratio whose interval holds 1 tells nothing apart.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fxsparse.errors import Error

NOISY = 0.15  # coefficient of variation above which a warning stands beside the figure
BOOTSTRAPS = 2000


class Milliseconds(float):
    """A contender that returns this was timed by its device, whose clock is the better one."""


@dataclass(frozen=True)
class Timing:
    """The times of one contender, in milliseconds."""

    samples: npt.NDArray[np.float64] = field(repr=False)

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples, percent))

    @property
    def variation(self) -> float:
        """Standard deviation over mean, without the slowest twentieth: one hiccup of the machine is no property of the network."""
        calm = np.sort(self.samples)[: max(2, int(0.95 * len(self.samples)))]
        return float(calm.std() / calm.mean()) if calm.mean() > 0 else 0.0

    @property
    def noisy(self) -> bool:
        return self.variation > NOISY

    def as_data(self) -> dict[str, Any]:
        return {
            "median_ms": self.median,
            "p90_ms": self.percentile(90),
            "p99_ms": self.percentile(99),
            "variation": self.variation,
            "runs": len(self.samples),
        }


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        return not self.low <= 1.0 <= self.high

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def compare(
    contenders: Mapping[str, Callable[[], object]],
    *,
    runs: int = 50,
    seconds: float = 1.0,
    warmup: float = 0.3,
    most: float = 60.0,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time functions against each other: each at least `runs` times and `seconds` long, after `warmup` seconds; `most` seconds in all."""
    if not contenders:
        raise Error("there is nothing to measure")
    if runs < 2 or seconds < 0 or warmup < 0:
        raise Error("a measurement takes at least 2 runs, and times that are not negative")
    for contender in contenders.values():
        _warm(contender, warmup)
    order = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = time.perf_counter()
        while True:
            for index in order.permutation(len(names)).tolist():
                start = time.perf_counter_ns()
                result = contenders[names[index]]()
                wall = (time.perf_counter_ns() - start) / 1e6
                samples[names[index]].append(float(result) if isinstance(result, Milliseconds) else wall)
            elapsed = time.perf_counter() - began
            enough = all(len(line) >= runs and sum(line) >= 1e3 * seconds for line in samples.values())
            if enough or (elapsed > most and all(len(line) >= 2 for line in samples.values())):
                break
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(np.array(line)) for name, line in samples.items()}


def _warm(contender: Callable[[], object], seconds: float) -> None:
    began = time.perf_counter()
    for _ in range(2):
        contender()
    while time.perf_counter() - began < seconds:
        contender()


def ratio(a: Timing, b: Timing, seed: int = 0) -> Ratio:
    """How many times as long `a` takes as `b`. Both were measured in turn, and the bootstrap draws rounds, not single runs."""
    generator = np.random.default_rng(seed)
    count = min(len(a.samples), len(b.samples))
    rounds = generator.integers(0, count, size=(BOOTSTRAPS, count))
    drawn = np.median(a.samples[:count][rounds], axis=1) / np.median(b.samples[:count][rounds], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Ratio(a.median / b.median, low, high)
