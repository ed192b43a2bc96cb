"""Loops over sizes: `for t in range(x.shape[1])` and `for t in x` are unrolled, so a graph holds as many rounds as the traced run made.

Another input would need more or fewer of them, and must not be cut short in silence.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from fxsparse.errors import TraceError
from fxsparse.tracing.numbers import TracedInt
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


torch.fx.node.has_side_effect(rounds)


def count(graph: torch.fx.Graph, bound: Any) -> None:
    """Write into the graph how far a loop ran, where that is a traced size."""
    if isinstance(bound, TracedInt):
        graph.call_function(rounds, (bound.make(), int(bound), user_line()))


@contextlib.contextmanager
def counted(graph: torch.fx.Graph) -> Iterator[None]:
    """While this is open, a range to a traced size writes what it counted into the graph."""
    original = builtins.range

    class Ranges(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original)

    class Range(metaclass=Ranges):
        def __new__(cls, *bounds: Any) -> Any:
            for bound in bounds:
                count(graph, bound)
            return original(*bounds)

    builtins.range = Range  # type: ignore[misc]
    try:
        yield
    finally:
        builtins.range = original  # type: ignore[misc]
