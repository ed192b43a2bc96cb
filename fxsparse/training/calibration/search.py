"""The reducing-regrowing search of how sparse each layer should be: a genetic search over shares of what is given back."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fxsparse.errors import BudgetError, CheckpointError
from fxsparse.sparsity.allocation import Counts, Layer, fill
from fxsparse.sparsity.masks import apply, choose
from fxsparse.sparsity.patterns import Pattern, Unstructured, as_pattern
from fxsparse.sparsity.targets import find_targets
from fxsparse.training.calibration.images import Calibration, predictions, recalibrate
from fxsparse.training.calibration.settings import Settings

FORMAT = "fxsparse-distribution/1"
Genome = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """How many weights each tensor keeps. An allocation; saved as JSON, it can be applied again."""

    counts: Mapping[str, int]
    fitness: float = float("nan")

    def __call__(self, layers: Mapping[str, Layer], total: int) -> dict[str, int]:
        return Counts(self.counts)(layers, total)

    def save(self, path: str | os.PathLike[str]) -> None:
        _write(Path(path), {"format": FORMAT, "counts": dict(self.counts), "fitness": self.fitness})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Distribution:
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
            if said["format"] != FORMAT or not all(type(count) is int for count in said["counts"].values()):
                raise ValueError("it is no distribution of fxsparse")
            return cls(said["counts"], float(said["fitness"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be used: {error}") from error


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


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that a fitness needs, wherever it is computed."""

    model: nn.Module
    names: tuple[str, ...]
    calibration: Tensor  # what statistics are estimated on
    judged: Tensor  # what accuracy is taken on
    labels: Tensor
    noise: float
    pattern: Pattern = field(default_factory=Unstructured)
    units: tuple[int, ...] = ()

    def __call__(self, counts: Sequence[int], seed: int) -> float:
        """The accuracy of the network with these counts, largest weights kept, statistics estimated anew, inputs a little noisy."""
        twin = copy.deepcopy(self.model)
        parameters = dict(twin.named_parameters())
        with torch.no_grad():
            for name, count, unit in zip(self.names, counts, self.units or [1] * len(counts), strict=True):
                weight = parameters[name].detach()
                apply(choose(self.pattern, weight.abs(), count, unit), weight)
        recalibrate(twin, self.calibration)
        generator = torch.Generator().manual_seed(seed)
        noisy = self.judged + self.noise * torch.randn(self.judged.shape, generator=generator)
        return float((predictions(twin, noisy).argmax(1).cpu() == self.labels.cpu()).float().mean())


@dataclass
class Search:
    """A search that can be interrupted: its state is plain numbers, written after each generation where a `path` is given."""

    task: Callable[[Sequence[int], int], float]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    total: int
    settings: Settings
    units: tuple[int, ...] = ()
    executor: Executor | None = None
    path: Path | None = None
    progress: Callable[[int, int, float], object] | None = None  # generation, of how many, the best so far
    history: list[tuple[list[float], float]] = field(default_factory=list)  # every genome with its fitness, in order

    def run(self) -> Distribution:
        """The best distribution ever seen."""
        self._resume()
        each = self.settings.population
        for generation in range(len(self.history) // each, self.settings.generations + 1):
            population = self._generation(generation)
            counts = [self._counts(genome) for genome in population]
            seeds = [self._seed("noise", generation, index) for index in range(len(population))]
            self.history += list(zip([genome.tolist() for genome in population], self._judge(counts, seeds), strict=True))
            self._save()
            if self.progress is not None:
                self.progress(generation, self.settings.generations, max(fitness for _, fitness in self.history))
        best = max(self.history, key=lambda pair: pair[1])
        return Distribution(dict(zip(self.names, self._counts(np.array(best[0])), strict=True)), best[1])

    def _counts(self, genome: Genome) -> list[int]:
        return express(genome, self.sizes, self.total, self.settings.regrow, self.units)

    def _judge(self, counts: list[list[int]], seeds: list[int]) -> list[float]:
        if self.executor is None:
            return [self.task(each, seed) for each, seed in zip(counts, seeds, strict=True)]
        futures = [self.executor.submit(self.task, each, seed) for each, seed in zip(counts, seeds, strict=True)]
        return [future.result() for future in futures]  # in the order of the genomes, whoever is ready first

    def _generation(self, number: int) -> list[Genome]:
        """The first one random, with the even share among them; later ones children of the best ever seen, who stay among them."""
        chance = np.random.default_rng(self._seed("genes", number))
        size = len(self.sizes)
        if number == 0:
            even = np.log(np.array(self.sizes, dtype=np.float64))
            return [even, *(chance.standard_normal(size) for _ in range(self.settings.population - 1))]
        ranked = sorted(self.history, key=lambda pair: -pair[1])
        parents = [np.array(genome) for genome, _ in ranked[: self.settings.parents]]
        children = []
        for _ in range(self.settings.population):
            a, b = chance.choice(len(parents), size=2, replace=len(parents) < 2)
            child = np.where(chance.random(size) < 0.5, parents[a], parents[b])
            mutated = chance.random(size) < self.settings.mutation
            children.append(np.where(mutated, child * (1 + chance.standard_normal(size)), child))
        return children

    def _seed(self, *parts: object) -> int:
        text = "/".join(map(str, (self.settings.seed, *parts)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")

    def _about(self) -> dict[str, Any]:
        s = self.settings
        return {"sizes": list(self.sizes), "total": self.total, "seed": s.seed, "population": s.population, "regrow": s.regrow}

    def _save(self) -> None:
        if self.path is not None:
            _write(self.path, {"format": FORMAT, "about": self._about(), "history": self.history})

    def _resume(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            said = json.loads(self.path.read_text(encoding="utf-8"))
            if said["format"] != FORMAT or said["about"] != self._about():
                raise ValueError("it belongs to another search")
            self.history = [([float(gene) for gene in genome], float(fitness)) for genome, fitness in said["history"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the search in {self.path} cannot go on: {error}; delete it to begin anew") from error


def search(
    model: nn.Module, calibration: Calibration, total: int, settings: Settings, exclude: Sequence[str] = (), **where: Any
) -> tuple[Distribution, Search]:
    """Search a distribution for a model. Fitness looks at images that statistics were not estimated on."""
    targets = find_targets(model, exclude=exclude)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(calibration), generator=generator)
    held = max(1, round(settings.held_out * len(order)))
    judged, rest = calibration.part(order[:held]), calibration.part(order[held:])
    parameters = {id(p): name for name, p in model.named_parameters()}
    names = tuple(parameters[id(t.parameter)] for t in targets)
    pattern = as_pattern(settings.pattern)
    units = tuple(pattern.unit(t.name, t.shape) for t in targets)
    task = Task(model, names, rest.inputs, judged.inputs, judged.labels, settings.noise, pattern, units)
    found = Search(task, tuple(t.name for t in targets), tuple(t.parameter.numel() for t in targets), total, settings, units, **where)
    return found.run(), found


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".search-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(data, file)
    os.replace(draft, path)
