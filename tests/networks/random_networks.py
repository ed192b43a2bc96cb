"""Random networks out of the whole set of rules, as Python source that can be pasted into a test.

A network is drawn as a list of steps; a step is the name of an operator and a few bytes that decide everything about it. `assemble` turns
steps into source. So hypothesis shrinks by dropping steps and zeroing bytes, and a plain `random.Random` draws from the same networks.
"""

from __future__ import annotations

import inspect
import linecache
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks.assembly import Recipe, Step, assemble
from tests.networks.randomise import randomise
from tests.networks.registry import FAMILIES, OPERATORS

GENES = 12  # bytes for each step; what an operator reads beyond them is zero


class Call(NamedTuple):
    """What a network is called with: `network(*args, **kwargs)`."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Tensor]


@dataclass(frozen=True, repr=False)
class RandomNetwork:
    """The source defines `Network` and `example_inputs`."""

    recipe: Recipe

    @cached_property
    def source(self) -> str:
        return assemble(self.recipe)

    @property
    def operators(self) -> tuple[str, ...]:
        """The names of what was drawn, in order."""
        return tuple(step.operator for step in self.recipe.steps)

    def build(self, seed: int = 0) -> nn.Module:
        """A fresh instance with random values, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return randomise(_namespace(self.source)["Network"](), seed)

    def example_inputs(self, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Call:
        return Call(*_namespace(self.source)["example_inputs"](batch, seed, dtype))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints for a failing example: the program as it is, at the left margin."""
        printer.text(f"\n{self!r}\n")

    def __repr__(self) -> str:
        """A program that builds the network and runs it."""
        return f"""{self.source}

{inspect.getsource(randomise)}

torch.manual_seed(0)
network = randomise(Network())
args, kwargs = example_inputs()
network(*args, **kwargs)
"""


@lru_cache(maxsize=64)
def _namespace(source: str) -> dict[str, Any]:
    """Run the source once; tracebacks show its lines."""
    name = f"<random network {abs(hash(source)):x}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": "random_network"}
    exec(compile(source, name, "exec", dont_inherit=True), namespace)
    return namespace


def _chosen(families: Collection[str] | None) -> list[str]:
    unknown = set(families or ()) - set(FAMILIES)
    assert not unknown, f"no such families: {sorted(unknown)}; there are {sorted(FAMILIES)}"
    return [name for name in FAMILIES if families is None or name in families]


def _weighted(families: Sequence[str]) -> list[str]:
    """Names of operators, each as often as it weighs."""
    return [operator.name for family in families for operator in FAMILIES[family].operators for _ in range(operator.weight)]


@st.composite
def networks(
    draw: st.DrawFn, min_ops: int = 5, max_ops: int = 40, families: Collection[str] | None = None, require: Collection[str] = ()
) -> RandomNetwork:
    """Random networks of `min_ops` to `max_ops` operators out of `families` (all, when None), with one of each family in `require`.

    Most networks do without some of the families: what is drawn from few meets itself more often.
    """
    allowed = _chosen(families)
    left_out = draw(st.sets(st.sampled_from(allowed), max_size=max(len(allowed) - 4, 0)))
    names = st.sampled_from(_weighted([name for name in allowed if name not in left_out]))
    genes = st.binary(max_size=GENES)
    fewer = len(require)
    steps = [Step(*step) for step in draw(st.lists(st.tuples(names, genes), min_size=max(min_ops - fewer, 0), max_size=max_ops - fewer))]
    for family in require:
        position = draw(st.integers(0, len(steps)))
        steps.insert(position, Step(*draw(st.tuples(st.sampled_from(_weighted(_chosen([family]))), genes))))
    return RandomNetwork(Recipe(draw(genes), tuple(steps), draw(genes)))


def random_network(
    seed: int, min_ops: int = 5, max_ops: int = 40, families: Collection[str] | None = None, require: Collection[str] = ()
) -> RandomNetwork:
    """The same networks without hypothesis, by seed."""
    rng = random.Random(seed)
    allowed = _chosen(families)
    left_out = rng.sample(allowed, rng.randint(0, max(len(allowed) - 4, 0)))
    names = _weighted([name for name in allowed if name not in left_out])
    steps = [Step(rng.choice(names), rng.randbytes(GENES)) for _ in range(rng.randint(min_ops, max_ops) - len(require))]
    for family in require:
        steps.insert(rng.randint(0, len(steps)), Step(rng.choice(_weighted(_chosen([family]))), rng.randbytes(GENES)))
    return RandomNetwork(Recipe(rng.randbytes(GENES), tuple(steps), rng.randbytes(GENES)))


__all__ = ["FAMILIES", "OPERATORS", "Call", "RandomNetwork", "networks", "random_network"]
