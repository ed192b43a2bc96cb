"""Sizes and values that a graph holds as plain numbers, and what another input is told.

`for t in range(x.shape[1])` and `for t in x` are unrolled, so a graph holds as many rounds as the traced run made; `int(x.shape[0] / 4)`
is an int of Python's own, which remembers nothing. Another input must not be cut short, or put into a wrong shape, in silence; nor may a
buffer be another (`if not self.initialized:`) than it was.
"""

from __future__ import annotations

import builtins
import contextlib
import math
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fxsparse.errors import TraceError
from fxsparse.tracing.numbers import Traced, TracedFloat, TracedInt, extreme, rounding
from fxsparse.tracing.recorder import ACTIVE, user_line


def rounds(size: int, traced: int, where: str) -> None:
    """A node of the graph: refuses an input for which the loop would end elsewhere. A recording is no run and is let through, and
    tracing what was traced writes the node again."""
    if isinstance(size, TracedInt):
        node = size.make()
        node.graph.call_function(rounds, (node, traced, where))
    elif size != traced and ACTIVE.get() is None:
        raise TraceError(
            f"the loop at {where} runs to {size} with this input, and ran to {traced} when the model was traced; trace it again"
        )


def rounded(number: float, traced: int | float, where: str) -> None:
    """A node of the graph: refuses an input for which `int`, `float` or `len` would have given another number. As `rounds`, it lets a
    recording through."""
    if isinstance(number, Traced):
        node = number.make()
        node.graph.call_function(rounded, (node, traced, where))
    elif type(traced)(number) != traced and ACTIVE.get() is None:
        raise TraceError(
            f"{where} gives {type(traced)(number)} with this input, and gave {traced} when the model was traced; trace it again, or use "
            "//, math.floor or x.shape there, which are followed"
        )


def answered(tensor: Tensor, traced: bool | int | float, where: str) -> None:
    """A node of the graph: refuses to go on where a tensor that the code looked at has another value than it had."""
    if torch.compiler.is_exporting() or ACTIVE.get() is not None:
        return
    now = type(traced)(tensor.item())
    alike = isinstance(traced, float) and (math.isclose(now, traced, rel_tol=1e-3) or (math.isnan(now) and math.isnan(traced)))
    if now != traced and not alike:  # a fraction is another one in another precision
        raise TraceError(f"the value that is looked at in {where} is {now} now, and was {traced} when the model was traced; trace it again")


BETWEEN = ("torch/_tensor.py", "torch/overrides.py", "fxsparse/tracing/graphing.py")  # a tensor's `len`, and who is told of it
PINS = (rounds, rounded)  # nodes of the graph that compare a size with the one that was traced
HOLDS = (*PINS, answered)  # nodes that give nothing, and must stay
for pin in HOLDS:
    torch.fx.node.has_side_effect(pin)


def count(graph: torch.fx.Graph, bound: Any) -> None:
    """Write into the graph how far a loop ran, where that is a traced size."""
    if isinstance(bound, TracedInt) and bound.home is graph:
        graph.call_function(rounds, (bound.make(), int(bound), user_line()))


@contextlib.contextmanager
def counted(graph: torch.fx.Graph) -> Iterator[list[dict[str, Any]]]:
    """While this is open, a range to a traced size writes what it counted into the graph, and so do `int` and `float`; what the code around
    these sees is in the list. The length of a tensor is a traced size (Python makes a plain int of what `__len__` gives), and so are the
    least and the largest of sizes."""
    original, plain_length, least, largest = builtins.range, builtins.len, builtins.min, builtins.max
    cutting: list[dict[str, Any]] = []

    def length(sized: Any, /) -> int:
        return sized.shape[0] if isinstance(sized, Tensor) and sized.dim() else plain_length(sized)

    class Ranges(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original)

    class Range(metaclass=Ranges):
        def __new__(cls, *bounds: Any) -> Any:
            for bound in bounds:
                count(graph, bound)
            return original(*bounds)

    def note(number: TracedInt | TracedFloat, plain: int | float, function: str) -> None:
        frame: FrameType | None = sys._getframe(3)
        while frame is not None and frame.f_code.co_filename.endswith(BETWEEN):
            frame = frame.f_back
        file = frame.f_code.co_filename if frame is not None else "<"
        if number.home is graph and "/torch/" not in file and "fxsparse/tracing" not in file and not file.startswith("<"):
            graph.call_function(rounded, (number.make(), plain, f"{function}() at {user_line()}"))
            if function in frame.f_code.co_names:  # type: ignore[union-attr]  # math.sqrt asks for a float as well
                cutting.append(frame.f_globals)  # type: ignore[union-attr]

    builtins.range = Range  # type: ignore[misc]
    builtins.len, builtins.min, builtins.max = length, extreme(least), extreme(largest)
    try:
        with rounding(note):
            yield cutting
    finally:
        builtins.range = original  # type: ignore[misc]
        builtins.len, builtins.min, builtins.max = plain_length, least, largest
