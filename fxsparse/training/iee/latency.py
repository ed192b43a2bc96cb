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
from fxsparse.errors import BudgetError, Error
from fxsparse.network import Network
from fxsparse.passes.choosing import aligned_steps
from fxsparse.training.distributed import world_size
from fxsparse.training.iee.spending import Living

NEAR = 0.03
TRIES = 4  # at the last prune, which nothing corrects any more


class Latency:
    """Milliseconds of one run on an engine, by a table of its layers.

    The whole network is measured once. With `remeasure`, so is every pruned one, against it in turn, and what the table says of small
    networks is corrected by what it was wrong by at the last one. `reports` holds (predicted, measured) of each.
    """

    def __init__(self, network: Network, table: LatencyTable, *, measured: float | None = None, remeasure: bool = True) -> None:
        self.table, self.remeasure = table, remeasure
        self.meter = LatencyMeter(network.origin.structure, table)
        self.first = network
        whole = self._measured({"": network})[""] if measured is None else measured
        self.meter.calibrate(self.meter.widths(network.living), whole)
        self.correction = 1.0
        self.reports: list[tuple[float, float]] = []

    @classmethod
    def on(cls, network: Network, name: str, threads: int) -> Latency:
        """On an engine by its name, with the table of this machine."""
        if world_size() > 1:
            raise Error(
                "the processes of a distributed run would each measure another latency; give a budget of macs, or one table for all: "
                "spending=Latency(network, table, measured=..., remeasure=False)"
            )
        return cls(network, LatencyTable.open(engine(name, threads=threads)))

    def __call__(self, network: Network, living: Mapping[str, tuple[int, ...]]) -> float:
        return self.of(self.meter.widths(living))

    def of(self, widths: Widths) -> float:
        return self.meter(widths) * self.correction

    def settle(self, network: Network, limit: float) -> bool:
        """Look how far the prediction for this pruned network is off, and correct it; whether the network is near enough to its limit."""
        measured = limit
        if self.remeasure and network.living != self.first.living:
            times = self._measured({"first": self.first, "small": network})
            whole = self.meter(self.meter.widths(self.first.living))
            measured = times["small"] / times["first"] * whole  # of the same moments: the machine may have become slower since
            self.reports.append((self(network, network.living), measured))
            self.correction = measured / self.meter(self.meter.widths(network.living))
        return abs(measured / limit - 1) <= NEAR

    def best_within(self, network: Network, worth: Mapping[str, Tensor], limit: float, least: int) -> Living:
        """The most worth for the time. In each group, units are kept in the order of their worth; infinite worth is kept in any case."""
        scores = {name: values.double().numpy() for name, values in worth.items()}
        order = {name: [int(u) for u in np.argsort(-v, kind="stable") if v[u] > -np.inf] for name, v in scores.items()}
        sure = {name: max(least, int(np.isposinf(v).sum())) for name, v in scores.items()}
        start = self.meter.widths({**network.living, **order})
        groups = [network.group(name) for name in order]
        found = {self.meter.position[name]: _finite(scores[name][units]) for name, units in order.items()}
        widths = None
        for step in dict.fromkeys((self.meter.step, 1)):  # the staircase's steps, where the budget can be reached in them
            search = Search(self.of, start, found, self.meter.names, limit, Limits(sure, aligned_steps(network, groups, step)))
            try:
                widths = widths_for_latency(search)
                break
            except BudgetError as error:
                why = error
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
            "correction": self.correction,
            "reports": [list(pair) for pair in self.reports],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.table.times.update(state["times"])
        for surface in self.meter.surfaces:
            surface.known.clear()
        self.meter.scale, self.meter.dense_rest, self.correction = state["scale"], state["rest"], state["correction"]
        self.reports = [(float(predicted), float(measured)) for predicted, measured in state["reports"]]

    def _measured(self, networks: Mapping[str, Network]) -> dict[str, float]:
        built = {name: self.table.engine.build(network) for name, network in networks.items()}
        timed = compare({name: each.prepare(*fresh_inputs(each.inputs)) for name, each in built.items()}, runs=30, seconds=0.5)
        return {name: timing.median for name, timing in timed.items()}


def _finite(scores: Any) -> Any:
    """Infinite scores above all others, but finite: they are kept in any case, and sums must not become infinite."""
    known = scores[np.isfinite(scores)]
    return np.where(np.isposinf(scores), (known.max() if len(known) else 0.0) + 1.0, scores)
