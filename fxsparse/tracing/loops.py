"""Whoever makes a plain number of a size, or goes by one, is noticed while a graph is written: the graph gets a pin for it."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor

from fxsparse.tracing.arithmetic import functions_follow
from fxsparse.tracing.lines import is_users, user_line
from fxsparse.tracing.numbers import Rank, TracedFloat, TracedInt, heard, plain_of, written
from fxsparse.tracing.pins import decided, rounded, rounds

# A tensor's `len`, and who is told of it; `min` and `max`, which compare for whoever asks them.
BETWEEN = ("torch/_tensor.py", "torch/overrides.py", "fxsparse/tracing/graphing.py", "fxsparse/tracing/arithmetic.py")


def count(graph: torch.fx.Graph, bound: Any) -> None:
    """Write into the graph how far a loop ran, where that is a traced size."""
    if isinstance(bound, TracedInt) and bound.home is graph:
        graph.call_function(rounds, (bound.make(), int(bound), user_line()))


def count_parts(graph: torch.fx.Graph, node: torch.fx.Node, function: str, parts: Any, how: tuple[Any, ...]) -> None:
    """A larger input is split into more parts, over which the code may have a loop. There are never more chunks than were asked for, and
    fewer are missed where they are used."""
    number = next((each for each in how if isinstance(each, int)), None)  # a part's size, or how many chunks
    if function in PARTED and number is not None and not (function.endswith("chunk") and len(parts) == number):
        graph.call_function(rounds, (graph.call_function(LENGTH, (node,)), len(parts), f"{user_line()}, over parts,"))


PARTED = ("split", "unsafe_split", "chunk", "unsafe_chunk")
LENGTH = len  # Python's own, for which another one stands in while a graph is written


def users_frame(frame: FrameType | None) -> FrameType | None:
    """This frame, where it is the user's code, or that of the user's call of torch."""
    while frame is not None and frame.f_code.co_filename.endswith(BETWEEN):
        frame = frame.f_back
    return frame if frame is not None and is_users(frame) else None


@contextlib.contextmanager
def counted(graph: torch.fx.Graph, rank: Callable[[torch.Size], int]) -> Iterator[list[dict[str, Any]]]:
    """While this is open, a range to a traced size writes what it counted into the graph, and so do `int`, `float` and comparisons; what
    the code around `int` and `float` sees is in the list. The length of a tensor is a traced size (Python makes a plain int of what
    `__len__` gives), that of a shape is what `rank` makes of it, and functions of numbers follow traced ones."""
    original, plain_length = builtins.range, builtins.len
    cutting: list[dict[str, Any]] = []
    asked: set[tuple[Any, ...]] = set()

    def length(sized: Any, /) -> int:
        if type(sized) is torch.Size:
            return rank(sized)
        if isinstance(sized, Tensor):
            return sized.shape[0] if sized.dim() else plain_length(sized)
        own = getattr(type(sized), "__len__", None)  # that of a list of boxes may be a size
        given = own(sized) if isinstance(own, FunctionType) else None
        return given if isinstance(given, TracedInt) and plain_of(given) >= 0 else plain_length(sized)

    class Ranges(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original)

    class Range(metaclass=Ranges):
        def __new__(cls, *bounds: Any) -> Any:
            for bound in bounds:
                count(graph, bound)
            return original(*bounds)

    class Ends:
        def cut(self, number: TracedInt | TracedFloat, plain: int | float, function: str) -> None:
            frame = users_frame(sys._getframe(3))
            if frame is not None and number.home is graph:
                graph.call_function(rounded, (number.make(), plain, f"{function} at {user_line()}"))
                own = str(frame.f_globals.get("__name__")).partition(".")[0] not in sys.stdlib_module_names
                if own and function.removesuffix("()") in frame.f_code.co_names:  # numpy asks for a float as well
                    cutting.append(frame.f_globals)

        def decided(self, question: str, number: TracedInt | TracedFloat | Rank, other: float, answer: bool) -> None:
            if number.home is graph and users_frame(sys._getframe(3)) is not None:
                key = written(number, graph), answer, user_line(), question, written(other, graph)
                if key not in asked:
                    asked.add(key)
                    graph.call_function(decided, key)

    builtins.range = Range  # type: ignore[misc]
    builtins.len = length
    try:
        with heard(Ends()), functions_follow():
            yield cutting
    finally:
        builtins.range = original  # type: ignore[misc]
        builtins.len = plain_length
