"""Objects of plain classes in the results of a graph: nodes that make them anew."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fxsparse.errors import TraceError
from fxsparse.tracing.memory import content, same
from fxsparse.tracing.nodes import Nodes
from fxsparse.tracing.outputs import attributes_of, opened

WRITES = "the forward pass writes to its argument"


@contextlib.contextmanager
def unwritten(arguments: Any) -> Iterator[None]:
    """What a run on meta tensors writes to the objects that it is given is taken back, and no graph comes of such a run."""
    objects = opened(arguments)[1]
    before = [{name: (value, content(value)) for name, value in _own(each).items()} for each in objects]
    error = None
    try:
        yield
    finally:
        for each, held in zip(objects, before, strict=True):
            now = {name: content(value) for name, value in _own(each).items()}
            if now.keys() != held.keys() or not all(same(held[name][1], now[name]) for name in now):
                error = error or f"{WRITES} of type {type(each).__name__}, and a graph would not: take what it should hold from the results"
                _put_back(each, held)
    if error:
        raise TraceError(error)


def _own(value: Any) -> dict[str, Any]:
    return attributes_of(value) or {}


def _put_back(value: Any, held: dict[str, tuple[Any, Any]]) -> None:
    for name in _own(value).keys() - held.keys():
        object.__delattr__(value, name)
    for name, (attribute, items) in held.items():
        object.__setattr__(value, name, attribute)
        if isinstance(attribute, list):
            attribute[:] = items
        elif isinstance(attribute, dict):
            attribute.clear()
            attribute.update(items)


class Outputs:
    """Writes what a forward pass gives into its graph: an object of a plain class, as a cache of keys and values, is made anew in each run.
    One that was there before, as an argument or in the module, may not: whoever has it would wait for what is written to it. Nor may a
    part of a model give one to the code around it, as a list of images in one batch: it would be bound to so many of them."""

    def __init__(self, nodes: Nodes, before: Iterable[Any], part: bool) -> None:
        self.nodes = nodes
        self.before = before
        self.part = part
        self.made: dict[int, fx.Node] = {}

    def argument(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(map(self.argument, value))
        if type(value) is dict:
            return {key: self.argument(each) for key, each in value.items()}
        if isinstance(value, torch.Size):
            return self.nodes.graph.call_function(torch.Size, (self.nodes.argument(tuple(value)),))
        if isinstance(value, (list, tuple, dict)):
            raise TraceError(f"a {type(value).__name__} in a result cannot stand in a graph; return tuples, lists or dicts")
        own = attributes_of(value)
        if own is None or isinstance(value, Tensor) or not _plain(type(value)):
            return self.nodes.argument(value)
        if id(value) not in self.made:
            self.made[id(value)] = self.object(value, own)
        return self.made[id(value)]

    def object(self, value: Any, own: dict[str, Any]) -> fx.Node:
        if self.part:
            raise TraceError(f"a {type(value).__name__} in the result of a part stays in plain Python")
        if any(each is value for each in opened(list(self.before))[1]):
            raise TraceError(f"the model returns a {type(value).__name__} that was there before, and a graph would return another one")
        kept = {name: each for name, each in own.items() if _timeless(each)}
        given = {name: self.argument(each) for name, each in own.items() if name not in kept}
        return self.nodes.graph.call_function(Made(type(value), kept), (given,))


def _plain(cls: Any) -> bool:
    """Whether an object of the class is its attributes, and nothing else."""
    return cls.__new__ is object.__new__


def _timeless(value: Any) -> bool:
    """Whether it is no part of one run, nor of one copy: a class, a function of a module."""
    return isinstance(value, type) or (isinstance(value, types.FunctionType) and value.__closure__ is None)


class Made:
    """The target of a node that makes an object of a class without a call of its `__init__`."""

    def __init__(self, cls: type, kept: dict[str, Any]) -> None:
        self.cls, self.kept = cls, kept
        self.__name__ = self.__qualname__ = f"made_{cls.__name__}"  # with this module's: a graph would import a name of torch's

    def __call__(self, given: dict[str, Any]) -> Any:
        made: Any = object.__new__(self.cls)
        for name, value in {**self.kept, **given}.items():
            object.__setattr__(made, name, value)
        return made

    def __repr__(self) -> str:
        return self.__name__

    def __deepcopy__(self, memo: dict[int, Any]) -> Made:
        return self
