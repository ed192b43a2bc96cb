"""The reducing-regrowing search of how sparse each layer should be: a genetic search over shares of what is given back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fxsparse.errors import CheckpointError, Error
from fxsparse.training.calibration.distribution import FORMAT, Distribution, Genome, express, write_json
from fxsparse.training.calibration.fitness import fitness_of
from fxsparse.training.calibration.images import Calibration
from fxsparse.training.calibration.plan import Plan
from fxsparse.training.calibration.settings import Settings


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
    subject: str = ""  # what is searched for, so that a file of another model or other images is refused
    history: list[tuple[list[float], float]] = field(default_factory=list)  # every genome with its fitness, in order

    def run(self) -> Distribution:
        """The best distribution ever seen."""
        self._resume()
        each = self.settings.population
        for generation in range(len(self.history) // each, self.settings.generations + 1):
            population = self._generation(generation)
            counts = [self.counts(genome) for genome in population]
            seeds = [self._seed("noise", generation, index) for index in range(len(population))]
            self.history += list(zip([genome.tolist() for genome in population], self._judge(counts, seeds), strict=True))
            self._save()
            if self.progress is not None:
                self.progress(generation, self.settings.generations, max(fitness for _, fitness in self.history))
        best = max(self.history[: each * (self.settings.generations + 1)], key=lambda pair: pair[1])
        return Distribution(dict(zip(self.names, self.counts(np.array(best[0])), strict=True)), best[1])

    def counts(self, genome: Genome | Sequence[float]) -> list[int]:
        """What each tensor keeps under a genome."""
        return express(np.asarray(genome), self.sizes, self.total, self.settings.regrow, self.units)

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
        ranked = sorted(self.history[: number * self.settings.population], key=lambda pair: -pair[1])
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
        """What must be the same for a search to go on. The number of generations need not be."""
        s = self.settings
        chosen = {name: getattr(s, name) for name in ("seed", "population", "parents", "mutation", "regrow", "noise", "held_out")}
        about = {"sizes": list(self.sizes), "units": list(self.units), "total": self.total, "pattern": str(s.pattern)}
        return {**about, **chosen, "precision": s.precision, "subject": self.subject}

    def _save(self) -> None:
        if self.path is not None:
            write_json(self.path, {"format": FORMAT, "about": self._about(), "history": self.history})

    def _resume(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            said = json.loads(self.path.read_text(encoding="utf-8"))
            if said["format"] != FORMAT:
                raise ValueError("it is no search of fxsparse")
            odd = next((name for name, value in self._about().items() if said["about"].get(name) != value), None)
            if odd is not None:
                raise ValueError(f"it belongs to another search ({ODD.get(odd, odd)})")
            self.history = [([float(gene) for gene in genome], float(fitness)) for genome, fitness in said["history"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the search in {self.path} cannot go on: {error}; delete it to begin anew") from error


ODD = {"subject": "other weights or images", "sizes": "another network", "total": "another sparsity"}


def search(
    model: nn.Module,
    data: Calibration,
    plan: Plan,
    settings: Settings,
    executor: Executor | int | None = None,
    path: Path | None = None,
    progress: Callable[[int, int, float], object] | None = None,
) -> tuple[Distribution, Search]:
    """Search a distribution for a model, here or by the workers of an executor; of a number, in so many processes."""
    task = fitness_of(model, plan, data, settings)
    names = tuple(t.name for t in plan.targets)
    with _workers(executor) as workers:
        found = Search(
            task, names, plan.sizes, plan.total, settings, plan.units, workers, path, progress, "" if path is None else task.fingerprint()
        )
        return found.run(), found


@contextmanager
def _workers(executor: Executor | int | None) -> Iterator[Executor | None]:
    """Processes of our own where a number is given; they begin anew, as threads do not survive a fork."""
    if not isinstance(executor, int):
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise Error(f"the search runs in a number of processes or on what has submit(), and {type(executor).__name__} has none")
        yield executor
    elif executor < 1:
        raise Error(f"the search cannot run in {executor} processes; give at least 1")
    elif executor == 1:
        yield None
    else:
        with ProcessPoolExecutor(executor, mp_context=get_context("spawn")) as pool:
            yield pool
