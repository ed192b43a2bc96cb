"""The tape: every ATen call that a network makes, with tensors replaced by references.

A tape is plain data. It knows nothing of axes; `fxsparse.axes` reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from fxsparse.tracing.demands import Demand

Origin = Literal["parameter", "buffer", "input", "constant", "result"]
Mode = Literal["eval", "train"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor on the tape: the index of its `Value`."""

    id: int

    def __repr__(self) -> str:
        return f"%{self.id}"


def refs(value: Any) -> tuple[Ref, ...]:
    """The tensors among arguments or results, lists and tables opened, in order."""
    found: list[Ref] = []
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, Ref):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            left.extend(reversed(item))
        elif isinstance(item, dict):
            left.extend(reversed(item.values()))
    return tuple(found)


class Value(NamedTuple):  # of which there are many: a tuple is made faster than a frozen object
    """What is known of one tensor object. An in-place call returns the value that it changed."""

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    origin: Origin
    key: str | None = None  # first qualified name, for parameters and buffers
    content: tuple[float, ...] | None = None  # of a small tensor that the forward pass computed from plain numbers


class Owner(NamedTuple):
    """Who made a call: the innermost module, and the fx node when the call was made by a traced graph."""

    module: str  # qualified name of the innermost torch.nn.Module that was running ("" is the root)
    graph: str | None  # qualified name of the traced module whose graph made the call; None: plain Python code
    node: str | None  # name of the fx node in that graph


@functools.cache
def _name(op: Any) -> str:
    return f"{op.namespace}.{op._schema.name.partition('::')[2]}"


@dataclass(frozen=True, slots=True)
class Call:
    """One ATen call. Tensors inside `args`, `kwargs` and `results` are `Ref`s."""

    op: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Any, ...]  # flat; a result that is no tensor stays as it is
    owner: Owner
    reads: tuple[Ref, ...] = field(init=False, repr=False)  # the tensors among its arguments
    makes: tuple[Ref, ...] = field(init=False, repr=False)  # the tensors among its results

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", refs((self.args, self.kwargs)))
        object.__setattr__(self, "makes", refs(self.results))

    @property
    def name(self) -> str:
        """`aten.addmm` for every overload of addmm; custom operators keep their namespace."""
        return _name(self.op)

    @property
    def writes(self) -> Iterator[Ref]:
        """The tensors that it changes in place."""
        schema = self.op._schema
        for position, argument in enumerate(schema.arguments if schema.is_mutable else ()):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield from refs(self.args[position] if position < len(self.args) else self.kwargs.get(argument.name))


@dataclass(frozen=True, slots=True)
class Answers:
    """What a recording answers where code asks for values that are not there."""

    yes: frozenset[int] = frozenset()  # the questions, by their number, that are answered with yes
    always: bool = False  # yes to all of them
    number: int = 1
    given: bool = False  # whole numbers and truth values among the inputs are what they are, and what follows from them

    def truth(self, question: int) -> bool:
        return self.always or question in self.yes


@dataclass(frozen=True, slots=True)
class Question:
    """Code asked for a value that is not there."""

    line: str  # of the user's code
    after: int  # so many calls


@dataclass
class Tape:
    """All calls of one run in one mode."""

    mode: Mode
    answers: Answers = field(default_factory=Answers)
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: tuple[Ref, ...] = ()
    outputs: tuple[Ref, ...] = ()
    kept: tuple[Ref, ...] = ()  # left in attributes for the next call, by plain Python code
    demands: tuple[Demand, ...] = ()  # of modules, on the axes of their tensors
    keys: dict[str, Ref] = field(default_factory=dict)  # every name of every parameter and buffer; tied names share a Ref
    handed: set[int] = field(default_factory=set)  # values that a graph gave to whoever called it
    chance: bool = False  # plain Python code drew numbers at random, and may go another way by them
    guessed: bool = False  # an operator asked for values that are not there: a number or a size was made up
    questions: list[Question] = field(default_factory=list)  # whether something is true
    numbers: list[Question] = field(default_factory=list)  # how much something is

    @functools.cached_property
    def readers(self) -> dict[int, list[Call]]:
        """value -> the calls that read it, once the run is over."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            for one in {ref.id for ref in call.reads}:
                found.setdefault(one, []).append(call)
        return found

    @functools.cached_property
    def idle(self) -> frozenset[int]:
        """The ids of results that no output depends on, once the run is over: attention weights that nobody asked for. None where plain
        Python code took part, which may look at anything."""
        if any(call.owner.graph is None for call in self.calls):
            return frozenset()
        needed = {ref.id for ref in self.outputs}
        idle: set[int] = set()
        for call in reversed(self.calls):
            made = [ref.id for ref in call.makes]
            if made and needed.isdisjoint(made) and call.op.namespace == "aten" and not call.op._schema.is_mutable:
                idle.update(made)
            else:
                needed.update(ref.id for ref in call.reads)
        return frozenset(idle - needed)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return self.values[ref.id].shape
