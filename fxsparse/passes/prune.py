"""Remove the least important units until a budget is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from fxsparse.budgets.amounts import Amount
from fxsparse.budgets.meter import MEASURES, Meter, Widths
from fxsparse.budgets.search import Limits, Scope, Search, widths_for
from fxsparse.channels.groups import Group
from fxsparse.criteria.base import Data, Scores, as_criterion, scored
from fxsparse.errors import BudgetError, PassError, VerificationError, nearest
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.choosing import aligned_steps, chosen
from fxsparse.passes.prune_latency import prune_to_latency

ENGINE_ALIGN = {"onnxruntime": 8, "tensorrt": 8, "inductor": 8}  # channels that fill a vector register or a tensor core's tile
NEAR = 0.99  # what counts as reached
POSITIONS = "works along k"  # that kernel positions stay is no news


@dataclass(frozen=True)
class Prune(Pass):
    """Remove the least important units until a budget is met.

    Exactly one budget says what shall be left: `units`, `parameters`, `macs`, `memory` (bytes of weights, and of the activations that live
    at once) or `latency`, each as a share of what there is now (0.5) or absolute ("2.5M", "3.2ms"). Guarantees: the budget is not exceeded,
    and missed by at most 1 % or a note says why; groups keep at least `min_units`, and at least 1 - `max_ratio` of their units; with
    `align`, widths are multiples of it; `auto`, and nothing where an `engine` is named, are what that engine likes. In `steps`, the budget
    falls geometrically, and each step scores anew.

    Example: `prune{macs=0.5,align=8,protect=[layer1*]}`
    """

    name: ClassVar[str] = "prune"
    units: float | int | str | None = None
    parameters: float | int | str | None = None
    macs: float | int | str | None = None
    memory: float | int | str | None = None
    latency: float | int | str | None = None
    criterion: Any = "magnitude"
    scope: Scope = "global"
    align: int | Literal["auto"] | None = None
    min_units: int = 1
    max_ratio: float = 0.95
    only: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    steps: int = 1
    engine: str | None = None
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in (*MEASURES, "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            raise PassError(
                f"prune takes one budget of units, parameters, macs, memory or latency, and got {' and '.join(given) or 'none'}"
            )
        if (isinstance(self.align, int) and self.align < 1) or self.min_units < 1 or self.steps < 1:
            raise PassError("align, min_units and steps of prune are at least 1")
        if not 0 < self.max_ratio <= 1:
            raise PassError(f"max_ratio of prune is the share of a group's units that may go, above 0 and at most 1, not {self.max_ratio}")
        if self.engine is not None and self.engine not in ENGINE_ALIGN:
            raise PassError(f"there is no engine {self.engine!r}{nearest(self.engine, ENGINE_ALIGN)}; there are {', '.join(ENGINE_ALIGN)}")

    @property
    def budget(self) -> str:
        """Which budget was given."""
        return next(name for name in (*MEASURES, "latency") if getattr(self, name) is not None)

    @property
    def multiple(self) -> int:
        """What widths become multiples of."""
        if isinstance(self.align, int):
            return self.align
        return ENGINE_ALIGN[self.engine or "onnxruntime"] if self.engine or self.align == "auto" else 1

    def requires(self, network: Network, context: Context) -> None:
        free, left = chosen(network, self.only, self.protect)
        if not free:
            reasons = sorted({why for why in left.values() if why})
            raise PassError(f"prune has nothing to remove: all groups are protected ({'; '.join(reasons[:3])})")

    def run(self, network: Network, context: Context) -> PassResult:
        if self.budget == "latency":
            return self._to_latency(network, context)
        meter = Meter(network.origin.structure, self.budget)
        first = meter(meter.widths(network.living))
        target = Amount.parse(getattr(self, self.budget), self.budget).of(first)
        if target >= first:
            return PassResult(network, False, (f"{self.budget} {first:,.0f} is within the budget of {target:,.0f} already",))
        result = network
        for step in range(1, self.steps + 1):
            part = first * (target / first) ** (step / self.steps)
            result = self._shrunk(result, meter, part, context)
            if context.between is not None and step < self.steps:
                result = self._between(context.between, result)
        return PassResult(result, True, (*self._reached(meter, first, target, result), *changes(network, result), *self._left(network)))

    def _between(self, work: Callable[[Network], Network], network: Network) -> Network:
        """What is done between two steps may change values alone."""
        made: object = work(network)
        if not isinstance(made, Network) or made.origin is not network.origin or made.living != network.living:
            what = "another network" if isinstance(made, Network) else f"a {type(made).__name__}"
            raise PassError(f"{self.name}: between gets the network after each step, may train it, and returns it; it returned {what}")
        return made

    def _to_latency(self, network: Network, context: Context) -> PassResult:
        assert self.latency is not None
        free, _ = chosen(network, self.only, self.protect)
        scores = self.scores(network, free, context)
        found = prune_to_latency(
            network,
            self.latency,
            scores,
            lambda step: self._latency_limits(network, free, step),
            lambda widths: best(network, scores, widths),
            self.engine or "onnxruntime",
            self.threads,
            context.progress,
        )
        modified = found.network is not network
        left = (*changes(network, found.network), *self._left(network)) if modified else ()
        return PassResult(found.network, modified, (*found.notes(), *left))

    def _shrunk(self, network: Network, meter: Meter, target: float, context: Context) -> Network:
        free, _ = chosen(network, self.only, self.protect)
        scores = self.scores(network, free, context)
        names = meter.names
        search = Search(
            measure=meter,
            start=meter.widths(network.living),
            groups={meter.position[name]: values for name, values in scores.items()},
            names=names,
            target=target,
            limits=self.limits(network, free),
            scope=self.scope,
            classes={meter.position[group.name]: _shape(network, group) for group in free},
        )
        try:
            widths = widths_for(search)
        except BudgetError as error:
            raise BudgetError(self._unreachable(network, search)) from error
        return network.shrink(best(network, scores, dict(zip(names, widths.astype(int).tolist(), strict=True))))

    def scores(self, network: Network, free: list[Group], context: Context) -> dict[str, Scores]:
        """What the criterion says of the groups that may change."""
        return scored(as_criterion(self.criterion, self.seed), network, [g.name for g in free], Data(context.data, context.loss))

    def _latency_limits(self, network: Network, free: list[Group], step: int) -> Limits:
        """Steps of the engine, unless others are asked for; a narrow group goes in quarters of its width."""
        if self.align not in (None, 1, "auto"):
            return self.limits(network, free)
        found = self.limits(network, free, step)
        steps = {g.name: min(found.steps.get(g.name, 1), max(1, len(g.units) // 4)) for g in free}
        return Limits(found.least, steps)

    def limits(self, network: Network, free: list[Group], align: int | None = None) -> Limits:
        """How far each group may shrink, and in which steps."""
        align = align or self.multiple
        whole = {group.name: len(network.origin.structure.classes[group.name]) for group in free}
        least = {name: max(self.min_units, int(np.ceil(round((1 - self.max_ratio) * count, 9)))) for name, count in whole.items()}
        return Limits(least, aligned_steps(network, free, align))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if self.budget in MEASURES and result.modified:
            meter = Meter(network.origin.structure, self.budget)
            first, now = (meter(meter.widths(each.living)) for each in (network, result.network))
            target = Amount.parse(getattr(self, self.budget), self.budget).of(first)
            if now > target * (1 + 1e-9):
                raise VerificationError(f"prune was to reach {target:,.0f} {self.budget} and left {now:,.0f}; this is an error in fxsparse")

    # ---- what is said -----------------------------------------------------------------------------------------------------------

    def _reached(self, meter: Meter, first: float, target: float, result: Network) -> list[str]:
        now = meter(meter.widths(result.living))
        notes = [f"{self.budget} {first:,.0f} -> {now:,.0f} ({now / first:.1%}; {target / first:.1%} asked for)"]
        if now < NEAR * target:
            why = f"widths are multiples of {self.multiple}" if self.multiple != 1 else "whole units are that large"
            notes.append(f"{1 - now / target:.1%} of the budget is not used: {why}, and one more of any group would exceed it")
        return notes

    def _left(self, network: Network) -> list[str]:
        _, left = chosen(network, self.only, self.protect)
        reasons: dict[str, list[str]] = {}
        for name, why in left.items():
            reasons.setdefault(why, []).append(name)
        return [f"left alone, {why}: {_list(names)}" for why, names in reasons.items() if POSITIONS not in why]

    def _unreachable(self, network: Network, search: Search) -> str:
        floor = search.start.copy()
        for position in search.groups:
            floor[position] = search.limits.levels(search.names[position], int(search.start[position]))[0]
        now, least = search.measure(search.start), search.measure(floor)
        binding = self._binding(search, floor)
        _, left = chosen(network, self.only, self.protect)
        named = [name for name, why in left.items() if POSITIONS not in why]
        wide = sorted(named, key=lambda name: -len(network.living[name]) * network.group(name).cost.parameters)[:3]
        asked = f"{search.target:,.0f} ({search.target / now:.1%}) is asked for"
        return (
            f"{self.budget} cannot go below {least:,.0f} ({least / now:.1%}), and {asked}; "
            f"protected are {_list(wide)}, and {_list(binding)} may not become narrower (min_units, max_ratio or align)"
        )

    def _binding(self, search: Search, floor: Widths) -> list[str]:
        """The groups whose least width costs most."""
        cost = {}
        for position in search.groups:
            fewer = floor.copy()
            fewer[position] = 0
            cost[position] = search.measure(floor) - search.measure(fewer)
        return [search.names[p] for p in sorted(cost, key=lambda p: -cost[p])[:3]]


def best(network: Network, scores: Mapping[str, Scores], widths: Mapping[str, int]) -> dict[str, list[int]]:
    """Group -> its best units, as many as the widths say; of equals the first."""
    keep = {}
    for name, values in scores.items():
        units = network.living[name]
        if widths[name] < len(units):
            order = np.argsort(-values, kind="stable")[: widths[name]]
            keep[name] = sorted(units[i] for i in order.tolist())
    return keep


def changes(before: Network, after: Network) -> list[str]:
    """The widths that changed, in one note."""
    lines = [f"{n} {len(before.living[n])} -> {len(units)}" for n, units in after.living.items() if len(units) != len(before.living[n])]
    return [f"{len(lines)} groups changed: {_list(lines, 8)}"] if lines else ["no group changed"]


def _list(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "") if names else "nothing"


def _shape(network: Network, group: Group) -> object:
    """What two groups must share to be ranked together: kind, and the shapes of what produces and consumes them."""
    structure = network.origin.structure
    return (group.kind, tuple(sorted((m.role, m.axis, len(structure.reading.tensors[m.tensor])) for m in group.members)))
