"""How many weights of each masked tensor are to live at a step: density, allocation and pattern together, to the weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fxsparse.errors import BudgetError, Error
from fxsparse.sparsity.allocation import Allocation, Counts, Explicit, Layer, Uniform, checked_density
from fxsparse.sparsity.masks import nonzeros
from fxsparse.sparsity.patterns import Pattern, Unstructured
from fxsparse.sparsity.schedules import Constant, Schedule, as_schedule
from fxsparse.sparsity.targets import Target


class Budget:
    """Counts by tensor. `density` may be left out where the allocation or the pattern says it."""

    def __init__(self, targets: Sequence[Target], density: float | Schedule | None, allocation: Allocation, pattern: Pattern) -> None:
        for target in targets:
            if target.transposed and type(pattern) is not Unstructured:  # N:M is unstructured in all but its groups
                raise Error(
                    f"{target.name} belongs to a transposed convolution, whose axes {pattern} does not know; exclude=[{target.name!r}]"
                )
        self.pattern, self.allocation = pattern, allocation
        self.units = {t.name: pattern.unit(t.name, t.shape) for t in targets}
        self.shapes = {t.name: t.shape for t in targets}
        self.size = sum(t.parameter.numel() for t in targets)
        self.schedule = self._schedule(density)
        for step in {0, self.schedule.end}:
            self.total(step)

    @property
    def ranks(self) -> bool:
        """Whether the allocation looks at scores."""
        return bool(getattr(self.allocation, "ranks", False))

    def total(self, step: int) -> int:
        """Living weights of all masked tensors at a step."""
        density = checked_density(self.schedule(step), f"the density at step {step}")
        total = round(density * self.size)
        if total == 0:
            raise BudgetError(f"a density of {density:g} leaves none of {self.size:,} weights; the least is {1 / self.size:.2g}")
        return total

    def counts(self, step: int, scores: Mapping[str, Tensor]) -> dict[str, int]:
        """Living weights of each tensor at a step, `scores` being those of its units."""
        total = self.total(step)
        counts = self.allocation(self._layers(scores), total)
        if all(unit == 1 for unit in self.units.values()) and sum(counts.values()) != total:
            raise BudgetError(f"the allocation gave {sum(counts.values()):,} weights instead of {total:,}")
        if not any(counts.values()):
            raise BudgetError(
                f"a density of {total / self.size:g} is {total:,} weights, less than any unit of the pattern {self.pattern}; "
                f"give at least {min(self.units.values()) / self.size:.2g}"
            )
        return counts

    def _layers(self, scores: Mapping[str, Tensor]) -> dict[str, Layer]:
        return {name: Layer(shape, self.units[name], scores.get(name)) for name, shape in self.shapes.items()}

    def _schedule(self, density: float | Schedule | None) -> Schedule:
        fixed = self.pattern.density
        if fixed is not None:
            if density is not None and (isinstance(density, Schedule) or abs(density - fixed) > 1e-9):
                raise BudgetError(f"the pattern {self.pattern} has the density {fixed:g}, not {density}; leave density out")
            self.allocation = Uniform()
            return Constant(fixed)
        if density is not None:
            return as_schedule(density if isinstance(density, Schedule) else checked_density(density))
        if isinstance(self.allocation, Explicit):
            return Constant(self.allocation.total(self._layers({})) / self.size)
        if isinstance(self.allocation, Counts):
            return Constant(sum(self.allocation.counts.values()) / self.size)
        raise BudgetError("no density was given; give density=0.1 to keep a tenth of the weights")


def require_counts(masks: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
    """An error when a mask does not hold what was allotted, to the weight."""
    for name, mask in masks.items():
        if nonzeros(mask) != counts[name]:
            raise Error(f"the mask of {name} holds {nonzeros(mask):,} weights where {counts[name]:,} were allotted")
