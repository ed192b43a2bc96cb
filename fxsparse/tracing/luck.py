"""The random numbers of a recording: the same in each one of a turn, and afterwards every generator goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from fxsparse.tracing.attributes import beside_classes
from fxsparse.tracing.walk import all_modules, own_attributes

# Their first 27 draws and more are all between 0.2 and 0.8: layers that are left out at random in one of ten or five runs, by whichever
# comparison, are there while a network is recorded.
LUCKY, LUCKY_PYTHON, LUCKY_NUMPY = 165675, 2181416, 7233963
_KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_DRAWS = {  # which give a float
    random: ("random", "uniform", "triangular", "betavariate", "gauss", "normalvariate"),
    np.random: ("random", "random_sample", "rand", "uniform", "beta", "randn", "normal", "standard_normal"),
}


@contextlib.contextmanager
def same_luck(turn: int, own: list[Any]) -> Iterator[None]:
    """While this is open, what a network draws by chance is the same in each recording of this turn; its `own` generators begin where
    they are."""
    python, numpy, states = random.getstate(), np.random.get_state(), [_state(each) for each in own]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(LUCKY + turn)
        random.seed(LUCKY_PYTHON + turn)
        np.random.seed(LUCKY_NUMPY + turn)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for each, state in zip(own, states, strict=True):
                _restore(each, state)


def drawn_since(own: list[Any]) -> Callable[[], bool]:
    """Whether Python, numpy or one of its `own` generators have drawn numbers from now on, as a function to ask."""
    before = _states(own)
    return lambda: _states(own) != before


@contextlib.contextmanager
def used_draws(own: list[Any]) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether numbers were drawn since then and looked at. Eval mode may draw one for each layer, and ask only
    in train mode whether it is below the chance that the layer is left out."""
    now, used, here = _states(own), [False], threading.get_ident()

    def watching(draw: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal now
            if threading.get_ident() != here:  # a loader's, say, which goes on with floats
                return draw(*args, **kwargs)
            used[0] |= _states(own) != now  # somebody has drawn past this
            drawn = draw(*args, **kwargs)
            now = _states(own)
            if type(drawn) is not float:
                used[0] = True
                return drawn
            return RandomNumber(drawn, used)

        return watched

    places = [(module, name, getattr(module, name)) for module, names in _DRAWS.items() for name in names]
    try:
        for module, name, draw in places:
            setattr(module, name, watching(draw))
        yield lambda: used[0] or _states(own) != now
    finally:
        for module, name, draw in places:
            setattr(module, name, draw)


class RandomNumber:
    """A number that tells when it is looked at. It is no float: torch would take that without asking."""

    def __init__(self, number: float, used: list[bool]) -> None:
        self.__dict__.update(number=number, used=used)

    def __getattr__(self, name: str) -> Any:
        self.used[0] = True
        return getattr(self.number, name)


def _asking(name: str) -> Callable[..., Any]:
    def method(self: RandomNumber, *others: Any) -> Any:
        self.used[0] = True
        return getattr(float, name)(self.number, *(each.number if isinstance(each, RandomNumber) else each for each in others))

    return method


_OBJECTS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__repr__", "__str__", "__format__")
for _name in {*_OBJECTS, *(name for name in dir(float) if callable(getattr(float, name)) and name not in dir(object))}:
    setattr(RandomNumber, _name, _asking(_name))


def generators_of(root: nn.Module) -> list[Any]:
    """Generators that a network's modules keep as attributes, or their code beside its classes."""
    own = ([value for _, value in own_attributes(module)] for module in all_modules(root))
    places = [*own, *(list(names.values()) for names in beside_classes(root))]
    kinds = {type(value) for place in places for value in place}  # far fewer; and torch.Generator answers isinstance() in Python
    wanted = {kind for kind in kinds if issubclass(kind, _KINDS) and not issubclass(kind, random.SystemRandom)}  # that has no state
    return list({id(value): value for place in places for value in place if type(value) in wanted}.values()) if wanted else []


def _states(own: list[Any]) -> list[Any]:
    others = [each for each in own if not isinstance(each, torch.Generator)]  # what those of torch draw is on the tape
    return [random.getstate(), _plain(np.random.get_state(legacy=False)), *(_plain(_state(each)) for each in others)]


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state(legacy=False)


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _plain(state: Any) -> Any:
    """A state that can be compared."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state
