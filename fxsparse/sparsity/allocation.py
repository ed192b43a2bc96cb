"""How many weights each layer keeps, so that the counts add up to what was asked for, to the weight.

An allocation gives every layer a share, and `fill` turns shares into counts: a layer that would get more than it has becomes dense, and the
rest goes to the others (water-filling); what rounding leaves over goes to the largest remainders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fxsparse.errors import BudgetError
from fxsparse.sparsity.patterns import top


@dataclass(frozen=True, eq=False)
class Layer:
    """What an allocation may look at: a tensor's shape, the weights in one unit of its pattern, and the units' scores, if any."""

    shape: tuple[int, ...]
    unit: int = 1
    scores: Tensor | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Allocation(Protocol):
    """From layers by name and a total to the weights that each layer keeps."""

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]: ...


def fill(shares: Sequence[float], sizes: Sequence[int], total: int, units: Sequence[int] | None = None) -> list[int]:
    """Counts in proportion to `shares`, none above its size, that add up to `total`; exactly, where every unit is one weight.

    >>> fill([1, 1, 6], [100, 2, 30], 60)
    [28, 2, 30]
    """
    units = units or [1] * len(sizes)
    if not 0 <= total <= sum(sizes):
        raise BudgetError(f"{total:,} weights cannot be kept of {sum(sizes):,}")
    real = _water_filled(shares, sizes, total)
    counts = [int(value / unit + 1e-9) * unit for value, unit in zip(real, units, strict=True)]
    rest = total - sum(counts)
    by_remainder = sorted(range(len(sizes)), key=lambda i: counts[i] - real[i])
    while rest:
        before = rest
        for i in by_remainder:
            if units[i] <= rest and counts[i] + units[i] <= sizes[i] and shares[i] > 0:
                counts[i] += units[i]
                rest -= units[i]
        if rest == before:  # what is left is smaller than any unit that would fit
            break
    return counts


def _water_filled(shares: Sequence[float], sizes: Sequence[int], total: int) -> list[float]:
    full: set[int] = set()
    while True:
        open_layers = [i for i in range(len(sizes)) if i not in full]
        weight = sum(shares[i] for i in open_layers)
        rest = total - sum(sizes[i] for i in full)
        if not weight:
            if rest:
                raise BudgetError(f"{total:,} weights do not fit: the layers with a share above zero hold {total - rest:,}")
            scale = 0.0
        else:
            scale = rest / weight
        over = {i for i in open_layers if scale * shares[i] > sizes[i]}
        if not over:
            return [float(sizes[i]) if i in full else scale * shares[i] for i in range(len(sizes))]
        full |= over


@dataclass(frozen=True)
class ERK:
    """Erdős-Rényi-kernel: density in proportion to (sum of the sizes / product of the sizes) ** power, so that small layers stay denser.

    Power 1 is ERK, power 0 the same density everywhere.
    """

    power: float = 1.0

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        shares = [layer.size * (sum(layer.shape) / layer.size) ** self.power for layer in layers.values()]
        return _filled(layers, shares, total)


@dataclass(frozen=True)
class Uniform:
    """The same density in every layer."""

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        return _filled(layers, [float(layer.size) for layer in layers.values()], total)


@dataclass(frozen=True)
class Global:
    """One ranking over all layers: each keeps what it has among the best."""

    ranks: ClassVar[bool] = True

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        scores = []
        for name, layer in layers.items():
            if layer.scores is None:
                raise BudgetError(f"the global allocation ranks all weights, and {name} has no scores")
            scores.append(layer.scores.detach().flatten().float())
        sizes = [len(part) for part in scores]
        units = {layer.unit for layer in layers.values()}
        if len(units) == 1:
            chosen = top(torch.cat(scores), total // units.pop())
        else:
            weights = torch.cat([torch.full((n,), layer.unit) for n, layer in zip(sizes, layers.values(), strict=True)])
            order = torch.cat(scores).argsort(descending=True, stable=True).cpu()
            chosen = torch.zeros(sum(sizes), dtype=torch.bool)
            chosen[order[weights[order].cumsum(0) <= total]] = True
        return {name: int(part.sum()) * layer.unit for (name, layer), part in zip(layers.items(), chosen.split(sizes), strict=True)}


@dataclass(frozen=True)
class Explicit:
    """Densities by name pattern; the first that matches counts. Under another total they are shares, and are scaled."""

    densities: Mapping[str, float]

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        self._require_used(layers)
        return _filled(layers, [self.of(name) * layer.size for name, layer in layers.items()], total)

    def of(self, name: str) -> float:
        for pattern, density in self.densities.items():
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern):
                return checked_density(density, f"the density of {pattern!r}")
        raise BudgetError(f"no explicit density fits {name}; add one, or '*' for all others")

    def total(self, layers: Mapping[str, Layer]) -> int:
        """The weights kept when every layer has just its density."""
        self._require_used(layers)
        return sum(round(self.of(name) * layer.size) for name, layer in layers.items())

    def _require_used(self, layers: Mapping[str, Layer]) -> None:
        unused = [p for p in self.densities if not any(fnmatchcase(n, p) or fnmatchcase(n.rpartition(".")[0], p) for n in layers)]
        if unused:
            raise BudgetError(f"the explicit densities name {unused[0]!r}, which fits none of the masked tensors: {', '.join(layers)}")


@dataclass(frozen=True)
class Counts:
    """Weights by name, as a search found them."""

    counts: Mapping[str, int]

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        if set(self.counts) != set(layers):
            odd = sorted(set(self.counts) ^ set(layers))[0]
            raise BudgetError(f"the counts and the masked tensors are not the same: {odd!r} is in one of them only")
        wrong = next((n for n, layer in layers.items() if not 0 <= self.counts[n] <= layer.size or self.counts[n] % layer.unit), None)
        if wrong is not None:
            raise BudgetError(f"{wrong} cannot keep {self.counts[wrong]} of {layers[wrong].size} weights in units of {layers[wrong].unit}")
        if sum(self.counts.values()) != total:
            raise BudgetError(
                f"the counts add up to {sum(self.counts.values()):,} weights and the density asks for {total:,}; leave density out"
            )
        return dict(self.counts)


def _filled(layers: Mapping[str, Layer], shares: Sequence[float], total: int) -> dict[str, int]:
    counts = fill(shares, [layer.size for layer in layers.values()], total, [layer.unit for layer in layers.values()])
    return dict(zip(layers, counts, strict=True))


def checked_density(density: float, what: str = "a density") -> float:
    """The density, when it is in (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise BudgetError(f"{what} must be above 0 and at most 1, not {density!r}")
    return float(density)


def as_allocation(allocation: str | Mapping[str, float] | Allocation) -> Allocation:
    """`erk`, `uniform`, `global`, densities by name pattern, or an allocation itself."""
    if isinstance(allocation, Mapping):
        return Explicit(dict(allocation))
    if not isinstance(allocation, str):
        return allocation
    known: dict[str, Allocation] = {"erk": ERK(), "uniform": Uniform(), "global": Global()}
    if allocation not in known:
        raise BudgetError(f"there is no allocation {allocation!r}; choose {', '.join(known)}, or give densities by name")
    return known[allocation]
