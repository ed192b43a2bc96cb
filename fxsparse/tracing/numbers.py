"""Numbers that remember where they come from: sizes of traced tensors and what is computed from them.

They are ordinary ints and floats, so that control flow on sizes just works; the fx node is made when a traced call uses one. What Python
does with them stands in `arithmetic.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch

MakeNode = Callable[[], torch.fx.Node]


class _Remembering:
    """A number with an fx node behind it."""

    make: MakeNode
    home: torch.fx.Graph  # in any other graph it is a plain number

    def __new__(cls, value: int | float, make: MakeNode, home: torch.fx.Graph) -> Self:
        self: Self = super().__new__(cls, value)  # type: ignore[call-arg]  # that of int or float
        self.make, self.home = make, home
        return self

    def __copy__(self) -> Any:
        return copied(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copied(self)

    def __reduce__(self) -> tuple[type, tuple[int | float]]:
        plain = plain_of(self)
        return type(plain), (plain,)


class TracedInt(_Remembering, int):
    """A whole number that is followed."""


class TracedFloat(_Remembering, float):
    """A fraction that is followed."""


class Rank(_Remembering, int):
    """A tensor's number of axes: plain as an argument and in arithmetic, since no graph is of use for another one; but who compares it is
    noticed."""


Traced = (TracedInt, TracedFloat)
Noticed = (*Traced, Rank)


def written(value: Any, graph: torch.fx.Graph) -> Any:
    """The node behind a traced number of this graph, and any other value as it is. A number of another graph is plain: user code may have
    kept it from an earlier trace."""
    if not isinstance(value, Noticed):
        return value
    if value.home is graph:
        return value.make()
    return plain_of(value)


def plain_of(value: Any) -> Any:
    """A number that remembers nothing."""
    if not isinstance(value, Noticed):
        return value
    return int.__add__(value, 0) if isinstance(value, int) else float.__add__(value, 0.0)


def copied(value: Any) -> Any:
    """What a copy of a traced number is (`dataclasses.asdict` copies what it finds): the same one, as long as its graph is being built."""
    return value if _graph_of and value.home is _graph_of[-1] else plain_of(value)


def lifted(function: Callable[..., Any], plain: Any, *operands: Any) -> Any:
    """`plain`, which this function makes of these, as a number that remembers it, while a graph is built."""
    if not _graph_of or type(plain) not in (int, float):
        return plain
    memo: list[torch.fx.Node] = []
    home = _graph_of[-1]

    def make() -> torch.fx.Node:
        if not memo:
            memo.append(home.call_function(function, tuple(written(x, home) for x in operands)))
            memo[0].meta["value"] = plain
        return memo[0]

    return TracedInt(plain, make, home) if type(plain) is int else TracedFloat(plain, make, home)


_graph_of: list[torch.fx.Graph] = []  # the graph being built, innermost last


@contextlib.contextmanager
def building(graph: torch.fx.Graph) -> Iterator[None]:
    """While this is open, arithmetic on traced numbers can write into `graph`."""
    _graph_of.append(graph)
    try:
        yield
    finally:
        _graph_of.pop()


class Listener(Protocol):
    """Is told where a number ends in something that remembers nothing."""

    def cut(self, number: Any, plain: int | float, function: str) -> None:
        """`int`, `float` or another function has made a plain number of it; or needs it plain, and may make anything of it."""

    def decided(self, question: str, number: Any, other: int | float, answer: bool) -> None:
        """It was compared, and the code may go on by the answer."""


_listeners: list[Listener] = []


@contextlib.contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """While this is open, `listener` is told."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


def cut(number: Any, plain: int | float, function: str) -> None:
    """Python makes a plain number of a traced one, for this function's sake."""
    if _listeners and isinstance(number, Traced):
        _listeners[-1].cut(number, plain, function)


def decide(question: str, number: Any, other: int | float, answer: bool) -> None:
    """A traced number is compared."""
    if _listeners:
        _listeners[-1].decided(question, number, other, answer)
