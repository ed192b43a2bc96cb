"""Methods by the names that recipes and the command line use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fxsparse.errors import Error
from fxsparse.training.east.extreme import Extreme
from fxsparse.training.iee.weights import ExploitExplore
from fxsparse.training.methods import SET, Gradual, OneShot, RigL, Static
from fxsparse.training.sparsifier import Sparsifier
from fxsparse.training.straight_through import SRSTE

METHODS: dict[str, type[Sparsifier]] = {
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "gradual": Gradual,
    "one-shot": OneShot,
    "sr-ste": SRSTE,
    "iee": ExploitExplore,
    "east": Extreme,
}
DENSE = "dense"


def make_sparsifier(name: str, model: nn.Module, optimizer: Optimizer, steps: int, options: dict[str, Any]) -> Sparsifier | None:
    """The method of that name; None for `dense`."""
    if name == DENSE:
        if options:
            raise Error(f"dense training takes no option {sorted(options)[0]!r}; choose a method: {', '.join(METHODS)}")
        return None
    if name not in METHODS:
        raise Error(f"there is no method {name!r}; choose {DENSE}, {', '.join(METHODS)}")
    try:
        return METHODS[name](model, optimizer, steps=steps, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise Error(f"the method {name} does not take these options: {', '.join(options)} ({error})") from error


def make_method(name: str, model: nn.Module, optimizer: Optimizer, steps: int, options: Mapping[str, Any], seed: int) -> Sparsifier | None:
    """As `make_sparsifier`, with the run's seed where the options do not give another."""
    return make_sparsifier(name, model, optimizer, steps, dict(options) if name == DENSE else {"seed": seed, **options})
