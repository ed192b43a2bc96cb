"""`int(x.shape[0] / 4)` and `float(x.shape[0])` give plain numbers, whatever x.shape[0] is: Python will have it so. While code that does
this is traced once more, these names stand in its file for types that let sizes follow the inputs.

Such a type is no `int` to `type(n) is int`, nor to torch where a dtype is wanted, so that the second run counts only if it repeats the
first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxsparse.errors import TraceError
from fxsparse.tracing.arithmetic import as_float, truncated
from fxsparse.tracing.numbers import Traced
from fxsparse.tracing.tape import Tape
from fxsparse.tracing.traced_module import TracedGraph

Names = dict[str, Any]  # what code sees in its file


class Run(NamedTuple):
    """What a run under the tracer gives."""

    graph: TracedGraph
    tape: Tape
    asked: bool  # for its mode
    left: list[str]  # names of attributes that hold something else now
    fed: list[tuple[str, Tensor]]  # what stands in collections among them, and is computed from an input
    cutting: list[Names]  # of code that made plain numbers of sizes


class _Kind(type):
    kind: type
    follow: Callable[[Any], Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Traced):
            return cls.follow(args[0])
        return cls.kind(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.kind)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, cls.kind)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.kind

    def __hash__(cls) -> int:
        return hash(cls.kind)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.kind, name)


class Whole(metaclass=_Kind):
    """Stands for `int`."""

    kind, follow = int, staticmethod(truncated)


class Fraction(metaclass=_Kind):
    """Stands for `float`."""

    kind, follow = float, staticmethod(as_float)


STANDINS = {"int": Whole, "float": Fraction}


@contextlib.contextmanager
def followed(files: Iterable[Names]) -> Iterator[None]:
    """While this is open, `int` and `float` in these files follow sizes."""
    each = {id(names): names for names in files}.values()
    changed = [(names, name) for names in each for name in STANDINS if name not in names]
    for names, name in changed:
        names[name] = STANDINS[name]
    try:
        yield
    finally:
        for names, name in changed:
            del names[name]


def with_whole_numbers(run: Callable[[Iterable[Names]], Run], part: bool) -> Run:
    """The run in which sizes that `int` and `float` cut are followed, where it does the same as the one in which they are not."""
    first = run(())
    if not first.cutting or (part and first.tape.guessed):  # a part of a model that guesses becomes no graph
        return first
    try:
        second = run(first.cutting)
    except TraceError:
        return first
    return second if _story(first.tape) == _story(second.tape) else first


def _story(tape: Tape) -> list[Any]:
    """What happens on a tape, and with which numbers."""
    shapes = [tuple(map(int, value.shape)) for value in tape.values]
    numbers = (int, float, str)
    return [
        shapes,
        [(call.op, call.reads, call.makes, [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, numbers)])
         for call in tape.calls],
    ]  # fmt: skip
