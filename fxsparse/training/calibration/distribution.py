"""How many weights each tensor keeps: as genes that a search turns, and as a file that can be applied again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fxsparse.errors import BudgetError, CheckpointError
from fxsparse.sparsity.allocation import Counts, Layer, fill

FORMAT = "fxsparse-distribution/1"
Genome = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """How many weights each tensor keeps. An allocation; saved as JSON, it can be applied again."""

    counts: Mapping[str, int]
    fitness: float = float("nan")

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        return Counts(self.counts)(layers, total)

    def save(self, path: str | os.PathLike[str]) -> None:
        fitness = None if self.fitness != self.fitness else self.fitness  # JSON has no nan
        write_json(Path(path), {"format": FORMAT, "counts": dict(self.counts), "fitness": fitness})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Distribution:
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
            if said["format"] != FORMAT or not all(type(count) is int for count in said["counts"].values()):
                raise ValueError
            return cls(said["counts"], float("nan") if said["fitness"] is None else float(said["fitness"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # what is no distribution fails in any way
            why = error.strerror if isinstance(error, OSError) else "it is no distribution of fxsparse"
            raise CheckpointError(f"{path} cannot be used: {why}; save one with `distribution.save()` or `calibrate --out`") from error


def express(genome: Genome, sizes: Sequence[int], total: int, regrow: float, units: Sequence[int] | None = None) -> list[int]:
    """Genes to counts that add up to `total`: every layer is first made sparser than asked, then a part of all weights is given back,
    in the shares that the softmax of the genes says. No layer ends empty. Counts are multiples of a layer's unit; what is smaller than
    any unit stays behind."""
    units = units or [1] * len(sizes)
    everything = sum(sizes)
    density = total / everything
    base = [max(1, int(size * max(0.0, density - regrow)) // unit) * unit for size, unit in zip(sizes, units, strict=True)]
    if sum(base) > total:  # one weight each, where that is more than the part of a tiny layer
        base = list(units)
    rest = total - sum(base)
    if rest < 0:
        raise BudgetError(f"{total:,} weights are fewer than the {len(sizes)} layers need to keep one each; ask for less sparsity")
    shares = np.exp(np.maximum(genome - genome.max(), -50.0))  # a layer that others leave something for can always take it
    given = fill((shares / shares.sum()).tolist(), [size - b for size, b in zip(sizes, base, strict=True)], rest, units)
    counts = [b + g for b, g in zip(base, given, strict=True)]
    assert 0 <= total - sum(counts) < max(units)
    return counts


def write_json(path: Path, data: dict[str, Any]) -> None:
    """All at once, so that who is stopped while writing leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".search-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(data, file)
    os.replace(draft, path)
