"""How many weights each layer is to keep: what was asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fxsparse.errors import BudgetError, Error
from fxsparse.sparsity.allocation import Allocation, Layer, as_allocation
from fxsparse.sparsity.patterns import Pattern, as_pattern
from fxsparse.sparsity.targets import Target, find_targets
from fxsparse.training.budget import Budget
from fxsparse.training.calibration.distribution import Distribution, express
from fxsparse.training.calibration.settings import Settings

USUAL = 0.9


@dataclass(frozen=True)
class Plan:
    """The tensors to mask, and what they keep: `total` weights in all, allotted by `allocation` ("search": not yet)."""

    targets: tuple[Target, ...]
    pattern: Pattern
    units: tuple[int, ...]
    total: int
    allocation: Any

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(t.parameter.numel() for t in self.targets)

    @property
    def density(self) -> float | None:
        """What a sparsifier is told; nothing where the pattern says it."""
        return None if self.pattern.density is not None else self.total / sum(self.sizes)

    @property
    def searches(self) -> bool:
        return isinstance(self.allocation, str) and self.allocation == "search"


def planned(model: nn.Module, sparsity: float | None, settings: Settings) -> Plan:
    """The plan for a model. What cannot be, or would leave a layer empty, is said here."""
    if sparsity is not None and (isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1):
        raise Error(f"sparsity is the part of the weights that goes, at least 0 and below 1, not {sparsity!r}")
    targets = find_targets(model, exclude=settings.exclude)
    pattern, allocation = as_pattern(settings.pattern), settings.allocation
    if isinstance(allocation, Path) or (isinstance(allocation, str) and allocation.endswith(".json")):
        allocation = Distribution.load(allocation)
    units = tuple(pattern.unit(t.name, t.shape) for t in targets)
    size = sum(t.parameter.numel() for t in targets)
    total = size - round((USUAL if sparsity is None else sparsity) * size)
    if pattern.density is not None:
        allocation = "uniform"  # the pattern says how much of each layer stays, and nothing is left to search
        total = _own(round(pattern.density * size), total, size, sparsity, f"the pattern {pattern}", 1)
    elif isinstance(allocation, Distribution):
        allocation({t.name: Layer(t.shape, unit) for t, unit in zip(targets, units, strict=True)}, allocation.total)  # it must fit
        total = _own(allocation.total, total, size, sparsity, "the saved distribution", max(units))
    if total < sum(units):
        raise BudgetError(
            f"a sparsity of {1 - total / size:.6g} leaves {total:,} weights for {len(targets)} layers, which need {sum(units):,}; "
            "ask for less, or exclude layers"
        )
    plan = Plan(targets, pattern, units, total, allocation)
    empty = [name for name, count in _counts(plan).items() if not count]
    if empty and not settings.allow_empty:
        raise BudgetError(
            f"{empty[0]} would be left without weights by the allocation {_named(allocation)} and a sparsity of {1 - total / size:.6g}; "
            "use allocation='erk', ask for less, exclude the layer, or say allow_empty=True"
        )
    return plan


def _own(own: int, total: int, size: int, sparsity: float | None, what: str, slack: int) -> int:
    """What a pattern or a saved distribution keeps; an error where something else was asked for."""
    if sparsity is not None and abs(own - total) >= max(slack, 2):
        raise BudgetError(
            f"{what} keeps {own:,} of {size:,} weights, which is a sparsity of {1 - own / size:.6g}, and {sparsity:.6g} was asked for; "
            "leave the sparsity out"
        )
    return own


def _counts(plan: Plan) -> Mapping[str, int]:
    if plan.searches:
        counts = express(np.zeros(len(plan.units)), plan.sizes, plan.total, 0.0, plan.units)
        return {t.name: count for t, count in zip(plan.targets, counts, strict=True)}
    budget = Budget(plan.targets, plan.density, as_allocation(plan.allocation), plan.pattern)
    scores = {t.name: plan.pattern.pool(t.parameter.detach().abs()) for t in plan.targets} if budget.ranks else {}
    return budget.counts(0, scores)


def _named(allocation: Any) -> str:
    return repr(allocation) if isinstance(allocation, (str, Mapping)) else type(allocation).__name__


@dataclass(frozen=True)
class NoneEmpty:
    """Another allocation, but that a layer which would be left without weights keeps one unit, at the cost of the largest."""

    inner: Allocation

    @property
    def ranks(self) -> bool:
        return bool(getattr(self.inner, "ranks", False))

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        counts = self.inner(layers, total)
        for name in _without(counts):
            giver = max((other for other in counts if layers[other].unit == layers[name].unit), key=lambda other: counts[other])
            counts[giver] -= layers[name].unit
            counts[name] += layers[name].unit
        return counts


def _without(counts: Mapping[str, int]) -> Sequence[str]:
    return [name for name, count in counts.items() if not count]
