"""Methods by the names that recipes and the command line use."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fxsparse.errors import Error, nearest
from fxsparse.network import Network
from fxsparse.sparsity.allocation import checked_density
from fxsparse.training.east.extreme import Extreme, cycled
from fxsparse.training.iee.channels import ExploitExploreChannels
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
CHANNELS = "iee-channels"  # changes the model's shapes, so that the trainer makes it itself
NAMES = (DENSE, *METHODS, CHANNELS)
CYCLIC = ("static", "set", "rigl")  # methods whose density may go up and down; `east` has its own


def make_sparsifier(name: str, model: nn.Module, optimizer: Optimizer, steps: int, options: dict[str, Any]) -> Sparsifier | None:
    """The method of that name; None for `dense`. `cyclic` in the options, true or a table of `cycles`, `part`, `high` and `shape`, lets the
    density of static, SET and RigL go up and down as in EAST."""
    if name == DENSE:
        if options:
            raise Error(f"dense training takes no option {sorted(options)[0]!r}; choose a method: {', '.join(METHODS)}")
        return None
    if name not in METHODS:
        raise Error(f"there is no method {name!r}{nearest(name, NAMES) or '; choose ' + ', '.join(NAMES)}")
    known = options_of(METHODS[name]) | ({"cyclic"} if name in CYCLIC else set())
    require_known(name, options, known)
    if name in CYCLIC and "cyclic" in options:
        options = _cycling(dict(options), steps)
    try:
        return METHODS[name](model, optimizer, steps=steps, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise Error(f"the method {name} cannot take these options: {options} ({error})") from error


def make_method(name: str, model: nn.Module, optimizer: Optimizer, steps: int, options: Mapping[str, Any], seed: int) -> Sparsifier | None:
    """As `make_sparsifier`, with the run's seed where the options do not give another."""
    return make_sparsifier(name, model, optimizer, steps, dict(options) if name == DENSE else {"seed": seed, **options})


def make_channels(
    network: Network,
    optimizer: Optimizer,
    steps: int,
    options: Mapping[str, Any],
    *,
    followers: Sequence[nn.Module],
    on_change: Callable[[Network], None],
) -> ExploitExploreChannels:
    """The method `iee-channels`."""
    require_known(CHANNELS, options, options_of(ExploitExploreChannels) - {"followers", "on_change"})
    return ExploitExploreChannels(network, optimizer, steps=steps, followers=followers, on_change=on_change, **options)


def require_known(name: str, options: Mapping[str, Any], known: set[str]) -> None:
    """An error for the first option that a method does not have."""
    odd = next((option for option in options if option not in known), None)
    if odd == "density" and name == CHANNELS:
        raise Error(f"the method {name} has no density; give a part of the cost: macs=0.5, parameters, units or latency")
    if odd is not None:
        raise Error(f"the method {name} has no option {odd!r}{nearest(odd, known) or '; it has ' + ', '.join(sorted(known))}")


def options_of(method: Callable[..., Any]) -> set[str]:
    """The keywords that a method takes, those of its TypedDict of options included."""
    found: set[str] = set()
    hints = typing.get_type_hints(method.__init__)
    for parameter in inspect.signature(method).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= set(typing.get_type_hints(typing.get_args(hints[parameter.name])[0]))
        else:
            found.add(parameter.name)
    return found - {"model", "network", "optimizer", "steps"}


def _cycling(options: dict[str, Any], steps: int) -> dict[str, Any]:
    """The options with a density that cycles, where `cyclic` asks for it."""
    given = options.pop("cyclic")
    if given is False:
        return options
    chosen = {"cycles": 2, "part": 0.4, "high": 3.0, "shape": "cosine"}
    if given is not True and not (isinstance(given, dict) and set(given) <= set(chosen)):
        raise Error(f"cyclic is true, or a table of {', '.join(chosen)}, not {given!r}")
    chosen |= given if isinstance(given, dict) else {}
    return options | {"density": cycled(checked_density(options.get("density", 0.0)), steps, **chosen)}  # type: ignore[arg-type]
