"""Numbers that remember where they come from: sizes of traced tensors and what is computed from them.

They are ordinary ints and floats, so that control flow on sizes just works; the fx node is made when a traced call uses one.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

MakeNode = Callable[[], torch.fx.Node]


class TracedInt(int):
    """An int with an fx node behind it."""

    make: MakeNode
    home: torch.fx.Graph  # in any other graph it is a plain number

    def __new__(cls, value: int, make: MakeNode, home: torch.fx.Graph) -> TracedInt:
        self = super().__new__(cls, value)
        self.make, self.home = make, home
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int.__add__(self, 0),)


class TracedFloat(float):
    """A float with an fx node behind it."""

    make: MakeNode
    home: torch.fx.Graph

    def __new__(cls, value: float, make: MakeNode, home: torch.fx.Graph) -> TracedFloat:
        self = super().__new__(cls, value)
        self.make, self.home = make, home
        return self


class Rank(int):
    """A tensor's number of axes: plain as an argument and in arithmetic, since no graph is of use for another one; but who compares it is
    noticed."""

    make: MakeNode
    home: torch.fx.Graph

    def __new__(cls, value: int, make: MakeNode, home: torch.fx.Graph) -> Rank:
        self = super().__new__(cls, value)
        self.make, self.home = make, home
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


Traced = (TracedInt, TracedFloat)
Noticed = (*Traced, Rank)


def written(value: Any, graph: torch.fx.Graph) -> Any:
    """The node behind a traced number of this graph, and any other value as it is. A number of another graph is plain: user code may have
    kept it from an earlier trace."""
    if not isinstance(value, Noticed):
        return value
    if value.home is graph:
        return value.make()
    return int(value) if isinstance(value, int) else float(value)


def _lift(function: Callable[..., Any], plain: Any, graph: Callable[[], torch.fx.Graph], *operands: Any) -> Any:
    memo: list[torch.fx.Node] = []
    home = graph()

    def make() -> torch.fx.Node:
        if not memo:
            memo.append(home.call_function(function, tuple(written(x, home) for x in operands)))
            memo[0].meta["value"] = plain
        return memo[0]

    if type(plain) is int:
        return TracedInt(plain, make, home)
    return TracedFloat(plain, make, home) if type(plain) is float else plain


_graph_of: list[Callable[[], torch.fx.Graph]] = []  # the graph being built, innermost last


def _binary(name: str, function: Callable[[Any, Any], Any], reflected: bool) -> Callable[[Any, Any], Any]:
    base_int, base_float = getattr(int, name, None), getattr(float, name, None)

    def method(self: Any, other: Any, *rest: Any) -> Any:
        base = base_int if isinstance(self, int) else base_float
        plain = base(self, other) if base is not None else NotImplemented
        if (
            plain is NotImplemented and isinstance(other, float) and base_float is not None
        ):  # an int leaves it to the float, which forgets where the int is from
            plain = base_float(float(self), other)
        if plain is NotImplemented or not _graph_of:
            return plain
        a, b = (other, self) if reflected else (self, other)
        return _lift(function, plain, _graph_of[-1], a, b)

    return method


def _unary(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        plain = getattr(int if isinstance(self, int) else float, name)(self)
        return _lift(function, plain, _graph_of[-1], self) if _graph_of else plain

    return method


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *digits: Any) -> Any:
        plain = function(float(self), *digits)
        return _lift(function, plain, _graph_of[-1], self, *digits) if _graph_of else plain

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow"):
    for _type in Traced:
        setattr(_type, f"__{_name}__", _binary(f"__{_name}__", getattr(operator, _name), reflected=False))
        setattr(_type, f"__r{_name}__", _binary(f"__r{_name}__", getattr(operator, _name), reflected=True))
for _type in Traced:
    _type.__neg__ = _unary("__neg__", operator.neg)  # type: ignore[method-assign]
    _type.__abs__ = _unary("__abs__", abs)  # type: ignore[method-assign]
for _name, _function in (("floor", math.floor), ("ceil", math.ceil), ("round", round)):
    setattr(TracedFloat, f"__{_name}__", _whole(_function))


class Listener(Protocol):
    """Is told where a number ends in something that remembers nothing."""

    def cut(self, number: Any, plain: int | float, function: str) -> None:
        """`int`, `float` or `len` has made a plain number of it."""

    def decided(self, question: str, number: Any, other: int | float, answer: bool) -> None:
        """It was compared, and the code may go on by the answer."""


_listeners: list[Listener] = []


def _int(self: Any) -> int:
    """`int(x)` cannot give anything but a plain int: whoever listens is told."""
    plain = int.__add__(self, 0) if isinstance(self, int) else float.__trunc__(self)
    cut(self, plain, "int")
    return plain


def _float(self: Any) -> float:
    """The same for `float(x)`; math.sqrt(x) asks so as well."""
    plain = int.__float__(self) if isinstance(self, int) else float.__add__(self, 0.0)
    cut(self, plain, "float")
    return plain


def cut(number: Any, plain: int | float, function: str) -> None:
    """Python makes a plain number of a traced one, for this function's sake."""
    if _listeners and isinstance(number, Traced):
        _listeners[-1].cut(number, plain, function)


for _type in Traced:
    _type.__int__ = _int  # type: ignore[method-assign]
    _type.__float__ = _float  # type: ignore[method-assign]
_trunc = _whole(math.trunc)


def truncated(number: TracedInt | TracedFloat) -> int:
    """What `int` would give, were it to remember."""
    found: int = number if isinstance(number, int) else _trunc(number)
    return found


def as_float(number: TracedInt | TracedFloat) -> float:
    """What `float` would give."""
    if isinstance(number, float) or not _graph_of:
        return number
    made: float = _lift(float, int.__float__(number), _graph_of[-1], number)
    return made


for _type in Traced:
    _type.__trunc__ = truncated  # type: ignore[method-assign, assignment]


QUESTIONS = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge}


def _comparison(question: str) -> Callable[[Any, Any], Any]:
    name = f"__{QUESTIONS[question].__name__}__"
    of_int, of_float = getattr(int, name), getattr(float, name)

    def method(self: Any, other: Any) -> Any:
        answer = (of_int if isinstance(self, int) else of_float)(self, other)
        if answer is NotImplemented and isinstance(other, float):
            answer = of_float(int.__float__(self), other)
        if answer is not NotImplemented and _listeners:
            _listeners[-1].decided(question, self, other, answer)
        return answer

    return method


def _truth(self: Any) -> bool:
    answer = (int if isinstance(self, int) else float).__bool__(self)
    if _listeners:
        _listeners[-1].decided("!=", self, 0, answer)
    return answer


for _noticed in Noticed:
    for _question, _asked in QUESTIONS.items():
        setattr(_noticed, f"__{_asked.__name__}__", _comparison(_question))
    _noticed.__bool__ = _truth  # type: ignore[method-assign]


@contextlib.contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """While this is open, `listener` is told."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


def extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    """`min` or `max`, followed where it chooses among numbers of which one is traced."""

    def chosen(*given: Any, **kwargs: Any) -> Any:
        if kwargs or not _graph_of:
            return choose(*given, **kwargs)
        among = given if len(given) > 1 else tuple(given[0])
        plain = choose(among)
        if any(isinstance(each, Traced) for each in among) and all(isinstance(each, (int, float)) for each in among):
            return _lift(choose, int(plain) if isinstance(plain, int) else float(plain), _graph_of[-1], *among)
        return plain

    return chosen


TracedInt.__hash__ = Rank.__hash__ = int.__hash__  # type: ignore[method-assign]
TracedFloat.__hash__ = float.__hash__  # type: ignore[method-assign]


class building:
    """While this is open, arithmetic on traced numbers can write into `graph`."""

    def __init__(self, graph: torch.fx.Graph) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        _graph_of.append(lambda: self.graph)

    def __exit__(self, *exc: object) -> None:
        _graph_of.pop()
