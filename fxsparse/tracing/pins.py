"""Nodes of a graph that give nothing, and refuse an input for which the code that was traced would do something else.

A loop over a size is unrolled; `int(x.shape[0] / 4)` is an int of Python's own, which remembers nothing; `if x.shape[2] > 8` takes one way.
Another input must not be cut short, be put into a wrong shape or be led the wrong way in silence; nor may a buffer be another
(`if not self.initialized:`) than it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fxsparse.errors import TraceError
from fxsparse.tracing.arithmetic import QUESTIONS
from fxsparse.tracing.numbers import Noticed, Traced, TracedInt, written
from fxsparse.tracing.recorder import ACTIVE


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


FREE: ContextVar[list[str] | None] = ContextVar("fxsparse_free", default=None)  # while sizes are free: which single ones the code asks for


def _settled(number: Any, other: Any) -> bool:
    """Whether two sizes are the same, or are not, whatever the free ones will be."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # an exporter has loaded it by now

    return statically_known_true(number == other) or statically_known_true(number != other)


def decided(number: float, traced: bool, where: str, question: str, other: float) -> None:
    """A node of the graph: refuses an input for which the code would go another way. As `rounds`, it lets a recording through."""
    homes = [each.home for each in (number, other) if isinstance(each, Noticed)]
    if homes:
        homes[0].call_function(decided, (written(number, homes[0]), traced, where, question, written(other, homes[0])))
        return
    asked = None if torch.compiler.is_dynamo_compiling() else FREE.get()
    if asked is not None and question in ("==", "!=") and not _settled(number, other):
        asked.append(f"{where} asks whether {number} {question} {other}")
    same = traced if QUESTIONS[question](number, other) else not traced  # asked for good: under torch.compile, an answer is a symbol
    if not same and ACTIVE.get() is None:
        raise TraceError(
            f"{where} asks whether {number} {question} {other}, to which this input has another answer than the one that the model "
            "was traced with; trace it again with an input like this one"
        )


PINS = (rounds, rounded, decided)  # nodes of the graph that hold to what sizes were when it was traced
HOLDS = (*PINS, answered)  # nodes that give nothing, and must stay
for pin in HOLDS:
    torch.fx.node.has_side_effect(pin)


def renew(pin: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> None:
    """Sizes have changed for good: what the pin holds to is what it is now."""
    given: Any = torch.fx.node.map_arg(pin.args, lambda node: values[node])
    number, traced, _, *comparison = given
    if comparison:
        question, other = comparison
        pin.update_arg(1, QUESTIONS[question](number, other))
    else:
        pin.update_arg(1, type(traced)(number))
