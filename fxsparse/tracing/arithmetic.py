"""What Python does with traced numbers: operators, rounding and functions are followed, comparisons and all else is told of."""

from __future__ import annotations

import builtins
import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType
from typing import Any

from fxsparse.tracing.numbers import Noticed, Rank, Traced, TracedFloat, TracedInt, cut, decide, lifted, plain_of
from fxsparse.tracing.own_modules import Names

OPERATORS = ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow", "lshift", "rshift", "and", "or", "xor")
QUESTIONS = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge}
GIVE_AWAY = {int: ("bit_length", "bit_count", "to_bytes", "as_integer_ratio"), float: ("as_integer_ratio", "is_integer", "hex")}


def _kind(number: Any) -> type:
    return int if isinstance(number, int) else float


def _binary(name: str, function: Callable[[Any, Any], Any], reflected: bool) -> Callable[..., Any]:
    of_int, of_float = getattr(int, name, None), getattr(float, name, None)

    def method(self: Any, other: Any, *rest: Any) -> Any:
        if isinstance(other, (list, tuple, str, bytes)):
            cut(self, plain_of(self), "a repetition")
        base = of_int if isinstance(self, int) else of_float
        plain = base(self, other, *rest) if base is not None else NotImplemented
        if plain is NotImplemented and isinstance(other, float) and of_float is not None:
            plain = of_float(int.__float__(self), other)  # an int leaves it to the float, which forgets where the int is from
        if plain is NotImplemented:
            return plain
        a, b = (other, self) if reflected else (self, other)
        return lifted(pow, plain, a, b, *rest) if rest else lifted(function, plain, a, b)

    return method


def _unary(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        return lifted(function, getattr(_kind(self), name)(self), self)

    return method


def _rounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *digits: Any) -> Any:
        return lifted(function, function(plain_of(self), *digits), self, *digits)

    return method


def _comparison(question: str) -> Callable[[Any, Any], Any]:
    name = f"__{QUESTIONS[question].__name__}__"

    def method(self: Any, other: Any) -> Any:
        answer = getattr(_kind(self), name)(self, other)
        if answer is NotImplemented and isinstance(other, float):
            answer = getattr(float, name)(int.__float__(self), other)
        if answer is not NotImplemented:
            decide(question, self, other, answer)
        return answer

    return method


def _truth(self: Any) -> bool:
    answer: bool = _kind(self).__bool__(self)  # type: ignore[attr-defined]
    decide("!=", self, 0, answer)
    return answer


def _int(self: Any) -> int:
    """`int(x)` cannot give anything but a plain int: whoever listens is told."""
    plain: int = plain_of(self) if isinstance(self, int) else float.__trunc__(self)
    cut(self, plain, "int()")
    return plain


def _float(self: Any) -> float:
    """The same for `float(x)`; functions of numpy ask so as well."""
    plain: float = int.__float__(self) if isinstance(self, int) else plain_of(self)
    cut(self, plain, "float()")
    return plain


def _given_away(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        cut(self, plain_of(self), f"what {name}() is asked of")
        return getattr(plain_of(self), name)(*args, **kwargs)

    return method


def _itself(self: Any) -> Any:
    return self


def truncated(number: Any) -> Any:
    """What `int` would give, were it to remember."""
    return number if isinstance(number, int) else lifted(math.trunc, float.__trunc__(number), number)


def as_float(number: Any) -> Any:
    """What `float` would give."""
    return number if isinstance(number, float) else lifted(float, int.__float__(number), number)


def _teach(kind: Any) -> None:
    for name in OPERATORS:
        function = getattr(operator, f"__{name}__")
        setattr(kind, f"__{name}__", _binary(f"__{name}__", function, reflected=False))
        setattr(kind, f"__r{name}__", _binary(f"__r{name}__", function, reflected=True))
    kind.__divmod__ = lambda self, other: (self // other, self % other)
    kind.__rdivmod__ = lambda self, other: (other // self, other % self)
    kind.__neg__, kind.__abs__ = _unary("__neg__", operator.neg), _unary("__abs__", abs)
    kind.__pos__ = kind.conjugate = _itself
    kind.real = property(_itself)
    kind.__int__, kind.__float__, kind.__trunc__ = _int, _float, truncated
    for name in GIVE_AWAY[kind.__base__]:
        if hasattr(kind, name):  # it depends on Python's version
            setattr(kind, name, _given_away(name))


for _traced in Traced:
    _teach(_traced)
TracedInt.__invert__ = _unary("__invert__", operator.invert)  # type: ignore[method-assign]
TracedInt.__floor__ = TracedInt.__ceil__ = _itself  # type: ignore[method-assign]
TracedInt.numerator = property(_itself)  # type: ignore[assignment]
for _name, _function in (("floor", math.floor), ("ceil", math.ceil)):
    setattr(TracedFloat, f"__{_name}__", _rounded(_function))
for _traced in Traced:
    _traced.__round__ = _rounded(round)  # type: ignore[method-assign]
for _noticed in Noticed:
    for _question, _asked in QUESTIONS.items():
        setattr(_noticed, f"__{_asked.__name__}__", _comparison(_question))
    _noticed.__bool__ = _truth  # type: ignore[method-assign]
TracedInt.__hash__ = Rank.__hash__ = int.__hash__  # type: ignore[method-assign]
TracedFloat.__hash__ = float.__hash__  # type: ignore[method-assign]


# ---- functions --------------------------------------------------------------------------------------------------------------


def _extreme(choose: Callable[..., Any]) -> Callable[..., Any]:
    """`min` or `max`, followed where it chooses among numbers of which one is traced."""

    def chosen(*given: Any, **kwargs: Any) -> Any:
        among = given if len(given) != 1 else tuple(given[0])
        if not kwargs and any(isinstance(each, Traced) for each in among) and all(isinstance(each, (int, float)) for each in among):
            return lifted(choose, choose(map(plain_of, among)), *among)
        return choose(*given, **kwargs) if len(given) != 1 else choose(among, **kwargs)  # by comparisons, which are told of

    return chosen


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `math`, which would see plain numbers: followed where it gives a number."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        traced = [each for each in (*args, *kwargs.values()) if isinstance(each, Traced)]
        if not traced:
            return function(*args, **kwargs)
        plain = function(*map(plain_of, args), **{key: plain_of(value) for key, value in kwargs.items()})
        if type(plain) in (int, float) and not kwargs:
            return lifted(function, plain, *args)
        for each in traced:
            cut(each, plain_of(each), f"what {function.__name__}() is asked of")
        return plain

    return call


ASK_THE_NUMBER = {"floor", "ceil", "trunc", "prod", "fsum", "dist", "sumprod"}  # which they call, or go through a list
FUNCTIONS = {
    function: _of_numbers(function)
    for name, function in vars(math).items()
    if callable(function) and not name.startswith("_") and name not in ASK_THE_NUMBER
}
IMPORTED = Names(lambda name, value: isinstance(value, BuiltinFunctionType) and value in FUNCTIONS)


@contextlib.contextmanager
def functions_follow() -> Iterator[None]:
    """While this is open, functions of numbers follow traced ones."""
    least, largest = builtins.min, builtins.max
    places = [*((math, function.__name__) for function in FUNCTIONS), *IMPORTED]
    changed = [(place, name, vars(place)[name]) for place, name in places if vars(place).get(name) in FUNCTIONS]
    for place, name, function in changed:
        setattr(place, name, FUNCTIONS[function])
    builtins.min, builtins.max = _extreme(least), _extreme(largest)
    try:
        yield
    finally:
        builtins.min, builtins.max = least, largest
        for place, name, function in changed:
            setattr(place, name, function)
