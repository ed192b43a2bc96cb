"""Bring removed units back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fxsparse.budgets.amounts import Amount
from fxsparse.budgets.meter import MEASURES, Meter
from fxsparse.criteria.base import Data, Scores, as_criterion, scored
from fxsparse.errors import PassError, nearest
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.choosing import matches
from fxsparse.passes.prune import changes
from fxsparse.surgery.silence import may_be_silent


@dataclass(frozen=True)
class Regrow(Pass):
    """Bring removed units back.

    Which: those that `groups` names by number, or the best so many of each group by `counts`, or the best overall until a budget is spent
    (`units`, `parameters`, `macs` or `memory`, as a share of the dense network's or absolute); all of them when nothing is said. `only`
    restricts the groups. With `init=zero`, the default, the function stays as it is; `journal` restores the values that were removed, and
    `fresh` draws new ones. What is best a criterion says, looking at the remembered values. Groups that are normalised over their units
    cannot grow with `init=zero`: they are left alone, and named in the notes, unless they were asked for by name.

    Example: `regrow{macs=0.8,only=[layer3*]}`
    """

    name: ClassVar[str] = "regrow"
    groups: dict[str, tuple[int, ...]] | None = None
    counts: dict[str, int] | None = None
    units: float | int | str | None = None
    parameters: float | int | str | None = None
    macs: float | int | str | None = None
    memory: float | int | str | None = None
    only: tuple[str, ...] = ()
    criterion: Any = "magnitude"
    init: Literal["journal", "zero", "fresh"] = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("groups", "counts", *MEASURES) if getattr(self, name) is not None]
        if len(given) > 1:
            raise PassError(f"regrow takes one of groups, counts or a budget, and got {' and '.join(given)}")

    def requires(self, network: Network, context: Context) -> None:
        for name in (*(self.groups or {}), *(self.counts or {})):
            if name not in network.living:
                raise PassError(f"regrow: there is no group {name!r}{nearest(name, network.living)}")
        for pattern in self.only:
            if not any(matches(group, pattern) for group in network.groups):
                raise PassError(f"the pattern {pattern!r} names no group{nearest(pattern, network.living)}")

    def run(self, network: Network, context: Context) -> PassResult:
        missing = self._missing(network)
        left = self._unfit(network, missing)
        free = {name: units for name, units in missing.items() if name not in left}
        wanted = self._wanted(network, free, context)
        why = "left alone, normalised over their units, so that init=zero cannot keep the function (journal and fresh can): "
        notes = (why + ", ".join(left),) if left else ()
        if not wanted:
            what = "nothing is missing" if not missing else "nothing more fits" if free else "no group can"
            return PassResult(network, False, (f"nothing was grown: {what}", *notes))
        result = network.regrow(wanted, self.init)
        return PassResult(result, True, (*changes(network, result), *notes))

    def _unfit(self, network: Network, missing: Mapping[str, list[int]]) -> list[str]:
        """Groups that the pass would choose by itself, and that cannot grow without changing the function."""
        if self.init != "zero" or self.groups is not None or self.counts is not None:
            return []
        return [name for name in missing if not may_be_silent(network, name)]

    def _missing(self, network: Network) -> dict[str, list[int]]:
        gone = {}
        for group in network.groups:
            if self.only and not any(matches(group, pattern) for pattern in self.only):
                continue
            count = len(network.origin.structure.classes[group.name])
            units = sorted(set(range(count)) - set(group.units))
            if units:
                gone[group.name] = units
        return gone

    def _wanted(self, network: Network, missing: Mapping[str, list[int]], context: Context) -> dict[str, list[int]]:
        if self.groups is not None:
            return {name: list(units) for name, units in self.groups.items() if units}
        measure = next((name for name in MEASURES if getattr(self, name) is not None), None)
        if self.counts is None and measure is None:
            return dict(missing)
        ranked = self._ranked(network, missing, context)
        if self.counts is not None:
            return self._by_counts(ranked)
        assert measure is not None
        return self._by_budget(network, ranked, measure)

    def _ranked(self, network: Network, missing: Mapping[str, list[int]], context: Context) -> dict[str, list[tuple[float, int]]]:
        """The missing units of each group, best first, by what they were when they went."""
        dense = network.regrow() if network.journal.tensors else network.regrow(init="fresh")
        found: dict[str, Scores] = scored(as_criterion(self.criterion, self.seed), dense, list(missing), Data(context.data, context.loss))
        return {
            name: sorted(((float(found[name][u]), u) for u in units), key=lambda pair: (-pair[0], pair[1]))
            for name, units in missing.items()
        }

    def _by_counts(self, ranked: Mapping[str, list[tuple[float, int]]]) -> dict[str, list[int]]:
        assert self.counts is not None
        for name, count in self.counts.items():
            if count > len(ranked.get(name, [])):
                raise PassError(f"regrow: {count} units of group {name!r} are asked for, and {len(ranked.get(name, []))} are missing")
        return {name: [unit for _, unit in ranked[name][:count]] for name, count in self.counts.items() if count}

    def _by_budget(self, network: Network, ranked: Mapping[str, list[tuple[float, int]]], measure: str) -> dict[str, list[int]]:
        """One unit after the other, by score for cost, as long as the budget holds."""
        meter = Meter(network.origin.structure, measure)
        dense = meter(meter.widths({name: range(len(c)) for name, c in network.origin.structure.classes.items()}))
        target = Amount.parse(getattr(self, measure), measure).of(dense)
        widths = meter.widths(network.living)
        taken: dict[str, list[int]] = {}
        waiting = {name: list(units) for name, units in ranked.items()}
        while waiting:
            now, best = meter(widths), None
            for name, units in list(waiting.items()):
                wider = widths.copy()
                wider[meter.position[name]] += 1
                cost = meter(wider) - now
                if now + cost > target:
                    del waiting[name]
                    continue
                merit = units[0][0] / max(cost, np.finfo(np.float64).tiny)
                if best is None or merit > best[0]:
                    best = (merit, name)
            if best is None:
                break
            name = best[1]
            taken.setdefault(name, []).append(waiting[name].pop(0)[1])
            widths[meter.position[name]] += 1
            if not waiting[name]:
                del waiting[name]
        return taken
