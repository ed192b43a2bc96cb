"""Latency as a budget: tables predict, the engine's own measurements correct them, and the knapsack chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fxsparse.budgets.latency import LatencyMeter
from fxsparse.budgets.latency_search import widths_for_latency
from fxsparse.budgets.latency_table import LatencyTable
from fxsparse.budgets.meter import Widths
from fxsparse.budgets.search import Limits, Search
from fxsparse.engines import compare, engine
from fxsparse.engines.base import fresh_inputs
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.engines.profile import build_profiled
from fxsparse.errors import BudgetError
from fxsparse.network import Network
from fxsparse.passes.choosing import aligned_steps
from fxsparse.training.distributed import of_first
from fxsparse.training.iee.spending import Living

NEAR = 0.03  # measured latency that is so near its limit will do
TRIES = 4  # at one prune


class Latency:
    """Milliseconds of one run on an engine, by a table of its layers.

    The whole network is measured once, and its layers where the engine tells their times. With `remeasure`, so is every pruned network,
    against the whole one in turn, and predictions are corrected so that they are right for both: along a line between the two, and in
    proportion below. `reports` holds (predicted, measured) of each.
    """

    def __init__(self, network: Network, table: LatencyTable, *, measured: float | None = None, remeasure: bool = True) -> None:
        self.table, self.remeasure = table, remeasure
        self.meter = LatencyMeter(network.origin.structure, table)
        self.first = network
        self.whole = self._calibrate(measured)
        self.anchor: tuple[float, float] | None = None  # of the last pruned network: what the table says, and what was measured
        self.reports: list[tuple[float, float]] = []

    @classmethod
    def on(cls, network: Network, name: str, threads: int) -> Latency:
        """On an engine by its name, with the table of this machine. Of several processes the first alone measures, for all."""
        on, own = engine(name, threads=threads), []

        def first() -> dict[str, Any]:
            own.append(cls(network, LatencyTable.open(on)))
            return own[0].state_dict()

        state = of_first(first)
        if own:
            return own[0]
        made = cls(network, LatencyTable(on, {}, times=dict(state["times"])), measured=state["whole"])
        made.load_state_dict(state)
        return made

    def __call__(self, network: Network, living: Mapping[str, tuple[int, ...]]) -> float:
        return self.of(self.meter.widths(living))

    @property
    def correction(self) -> float:
        """By what predictions for networks as small as the last one, and smaller, are multiplied."""
        return 1.0 if self.anchor is None else self.anchor[1] / self.anchor[0]

    def of(self, widths: Widths) -> float:
        plain: float = self.meter(widths)
        if self.anchor is None:
            return plain
        (told, measured), whole = self.anchor, self.whole
        if plain <= told or not (told < whole and measured < whole):
            return plain * self.correction
        return measured + (plain - told) * (whole - measured) / (whole - told)

    def settle(self, network: Network, limit: float) -> float:
        """Look how far the prediction for this pruned network is off, and correct it. Returns how far the network is from its limit, as a
        part of that."""
        if not self.remeasure:
            return float(self(network, network.living) / limit - 1)
        if network.living == self.first.living:
            return float(self.whole / limit - 1)
        times = self._measured({"first": self.first, "small": network})
        measured = times["small"] / times["first"] * self.whole  # of the same moments: the machine may have become slower since
        self.reports.append((self(network, network.living), measured))
        self.anchor = self.meter(self.meter.widths(network.living)), measured
        return float(measured / limit - 1)

    def best_within(self, network: Network, worth: Mapping[str, Tensor], limit: float, least: int) -> Living:
        """The most worth for the time. In each group, units are kept in the order of their worth; infinite worth is kept in any case."""
        scores = {name: values.double().numpy() for name, values in worth.items()}
        order = {name: [int(u) for u in np.argsort(-v, kind="stable") if v[u] > -np.inf] for name, v in scores.items()}
        sure = {name: max(least, int(np.isposinf(v).sum())) for name, v in scores.items()}
        start = self.meter.widths({**network.living, **order})
        groups = [network.group(name) for name in order]
        found = {self.meter.position[name]: _finite(scores[name][units]) for name, units in order.items()}
        widths, step = None, self.meter.step
        while widths is None and step:  # the staircase's steps, or finer ones where the budget cannot be reached in them
            steps = {name: 1 << (each.bit_length() - 1) for name, each in aligned_steps(network, groups, step).items()}
            search = Search(self.of, start, found, self.meter.names, limit, Limits(sure, steps))
            try:
                widths = widths_for_latency(search)
            except BudgetError as error:
                why, step = error, step // 2
        if widths is None:
            if not any(np.isposinf(values).any() for values in scores.values()):
                raise why
            kept = {name: tuple(sorted(units[: sure[name]])) for name, units in order.items()}
            return {**network.living, **kept}  # nothing more fits beside what stays in any case
        counts = {name: int(widths[self.meter.position[name]]) for name in order}
        return {**network.living, **{name: tuple(sorted(units[: counts[name]])) for name, units in order.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Measurements: a resumed run must choose by the same."""
        return {
            "times": dict(self.table.times),
            "scale": self.meter.scale,
            "rest": self.meter.dense_rest,
            "factor": [float(x) for x in self.meter.factor],
            "waiting": [float(x) for x in self.meter.waiting],
            "whole": self.whole,
            "anchor": None if self.anchor is None else list(self.anchor),
            "reports": [list(pair) for pair in self.reports],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.table.times.update(state["times"])
        for surface in self.meter.surfaces:
            surface.known.clear()
        self.meter.scale, self.meter.dense_rest, self.whole = state["scale"], state["rest"], state["whole"]
        self.meter.factor, self.meter.waiting = np.array(state["factor"]), np.array(state["waiting"])
        self.anchor = None if state["anchor"] is None else (float(state["anchor"][0]), float(state["anchor"][1]))
        self.reports = [(float(predicted), float(measured)) for predicted, measured in state["reports"]]

    def _calibrate(self, measured: float | None) -> float:
        """Lay what the tables do not hold of the whole network on its layers and its activations. Returns what it takes."""
        widths, inside = self.meter.widths(self.first.living), None
        if measured is None:
            on = self.table.engine
            if isinstance(on, OnnxRuntime):
                _, layers = build_profiled(on, self.first)
                inside = self.meter.paired(widths, layers)
            measured = self._timed({"": self.first})[""]
        self.meter.calibrate(widths, measured, inside)
        return self.meter(widths)

    def _measured(self, networks: Mapping[str, Network]) -> dict[str, float]:
        found: dict[str, float] = of_first(lambda: self._timed(networks))
        return found

    def _timed(self, networks: Mapping[str, Network]) -> dict[str, float]:
        built = {name: self.table.engine.build(network) for name, network in networks.items()}
        timed = compare({name: each.prepare(*fresh_inputs(each.inputs)) for name, each in built.items()}, runs=30, seconds=0.5)
        return {name: timing.median for name, timing in timed.items()}


def _finite(scores: Any) -> Any:
    """Infinite scores above all others, but finite: they are kept in any case, and sums must not become infinite."""
    known = scores[np.isfinite(scores)]
    return np.where(np.isposinf(scores), (known.max() if len(known) else 0.0) + 1.0, scores)
