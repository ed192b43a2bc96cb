"""Pruning to a measured latency: tables predict, the engine decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fxsparse.budgets.amounts import Amount
from fxsparse.budgets.latency import LatencyMeter
from fxsparse.budgets.latency_search import widths_for_latency
from fxsparse.budgets.latency_table import LatencyTable, Progress
from fxsparse.budgets.meter import Meter, Widths
from fxsparse.budgets.search import Limits, Search
from fxsparse.criteria.base import Scores
from fxsparse.engines import LayerTime, compare, engine
from fxsparse.engines.base import Built, Engine, fresh_inputs
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.engines.profile import build_profiled
from fxsparse.errors import BudgetError
from fxsparse.network import Network
from fxsparse.passes.choosing import aligned_steps

TRIES = 5
NEAR = 0.03


@dataclass(frozen=True)
class Measured:
    """A network at a target, with what was predicted and measured, in milliseconds."""

    network: Network
    before: float
    target: float
    predicted: float
    after: float
    step: int

    def notes(self) -> list[str]:
        off = self.after / self.target - 1
        return [
            f"latency {self.before:.3g} -> {self.after:.3g} ms measured ({self.after / self.before:.1%}; {self.target:.3g} ms asked for, "
            f"{off:+.1%}; {self.predicted:.3g} ms predicted), widths in steps of {self.step}"
        ]


def prune_to_latency(
    network: Network,
    said: float | int | str,
    scores: Mapping[str, Scores],
    limits: Callable[[int], Limits],
    best: Callable[[Mapping[str, int]], Mapping[str, Sequence[int]]],
    engine_name: str,
    threads: int,
    progress: Progress | None = None,
) -> Measured:
    """The network at a latency. Predictions are corrected by measurements until the measured latency is within 3 % of the target."""
    on = engine(engine_name, threads=threads)
    dense, layers = _built(on, network)
    before = _latency({"": dense})[""]
    meter = LatencyMeter(network.origin.structure, LatencyTable.open(on), progress)
    start = meter.widths(network.living)
    meter.calibrate(start, before, meter.paired(start, layers))
    target = Amount.parse(said, "latency").of(before)
    if target >= before:
        return Measured(network, before, target, meter(start), before, meter.step)
    macs = Meter(network.origin.structure, "macs")
    found = None
    tried = [(meter(start), before)]  # what was aimed at, what came out
    for _ in range(TRIES):
        aim = _next_aim(tried, target)
        widths, step = _widths(network, meter, start, {meter.position[n]: s for n, s in scores.items()}, aim, limits, macs)
        small = network.shrink(best(dict(zip(meter.names, widths.astype(int).tolist(), strict=True))))
        times = _latency({"before": dense, "after": on.build(small)})
        ratio = times["after"] / times["before"]  # of the same moments; the machine may have become slower since
        made = Measured(small, before, target, meter(widths), ratio * before, step)
        if found is None or abs(made.after - target) < abs(found.after - target):
            found = made
        if abs(found.after / target - 1) <= NEAR:
            break
        tried.append((aim, made.after))
    assert found is not None
    return found


def _widths(
    network: Network,
    meter: LatencyMeter,
    start: Widths,
    scores: Mapping[int, Scores],
    aim: float,
    limits: Callable[[int], Limits],
    macs: Callable[[Widths], float],
) -> tuple[Widths, int]:
    """Widths in the engine's steps; a network too narrow for these goes in finer ones."""
    step = meter.step
    while True:
        try:
            search = Search(meter, start, scores, meter.names, aim, _halved(limits(step)))
            return widths_for_latency(search, macs, _whole(network, search.limits, [meter.names[p] for p in scores], step)), step
        except BudgetError:
            if step == 1:
                raise
            step //= 2


def _halved(limits: Limits) -> Limits:
    """Steps that are no power of two become one: engines halve their blocks for the widths that are no multiple."""
    return Limits(limits.least, {name: 1 << (step.bit_length() - 1) for name, step in limits.steps.items()})


def _whole(network: Network, limits: Limits, names: Sequence[str], step: int) -> Limits:
    """The same limits in whole steps of the engine, for narrow groups too."""
    whole = aligned_steps(network, [network.group(name) for name in names], step)
    return Limits(limits.least, {name: max(limits.steps.get(name, 1), whole.get(name, 1)) for name in names})


def _next_aim(tried: list[tuple[float, float]], target: float) -> float:
    """What to aim at so that the target comes out: the line through the two nearest points, on logarithmic scales."""
    above = min((each for each in tried if each[1] > target), default=None)
    below = max((each for each in tried if each[1] <= target and (above is None or each[0] < above[0])), default=None)
    if below is None or above is None:
        aim, got = min(tried, key=lambda each: abs(each[1] - target))
        return target if len(tried) == 1 else aim * target / got
    part = (math.log(target) - math.log(below[1])) / (math.log(above[1]) - math.log(below[1]))
    return math.exp(math.log(below[0]) + part * (math.log(above[0]) - math.log(below[0])))


def _built(on: Engine, network: Network) -> tuple[Built, tuple[LayerTime, ...]]:
    """The network on the engine, and what each layer takes inside it, where the engine tells."""
    return build_profiled(on, network) if isinstance(on, OnnxRuntime) else (on.build(network), ())


def _latency(built: Mapping[str, Built]) -> dict[str, float]:
    timed = compare({name: each.prepare(*fresh_inputs(each.inputs)) for name, each in built.items()}, runs=30, seconds=0.5)
    return {name: timing.median for name, timing in timed.items()}
