"""Makes a failing network small where hypothesis does not: fewer steps, fewer and smaller decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.networks.assembly import Recipe, Step
from tests.networks.random_networks import RandomNetwork


def minimise(network: RandomNetwork, fails: Callable[[RandomNetwork], bool]) -> RandomNetwork:
    """The smallest network found for which `fails` still answers True; `fails` decides what counts as the same failure."""
    assert fails(network), "this network does not fail"
    while True:
        smaller = next((each for each in map(RandomNetwork, _smaller(network.recipe)) if fails(each)), None)
        if smaller is None:
            return network
        network = smaller


def _smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Simpler recipes, the boldest first."""
    steps = recipe.steps
    size = len(steps) // 2
    while size:
        for first in range(0, len(steps), size):
            yield replace(recipe, steps=steps[:first] + steps[first + size :])
        size //= 2
    for genes in _simpler(recipe.start):
        yield replace(recipe, start=genes)
    for genes in _simpler(recipe.end):
        yield replace(recipe, end=genes)
    for index, step in enumerate(steps):
        for genes in _simpler(step.genes):
            yield replace(recipe, steps=(*steps[:index], Step(step.operator, genes), *steps[index + 1 :]))


def _simpler(genes: bytes) -> Iterator[bytes]:
    if genes:
        yield b""
        yield genes[: len(genes) // 2]
        yield genes[:-1]
    for index, value in enumerate(genes):
        if value:
            yield genes[:index] + b"\0" + genes[index + 1 :]
