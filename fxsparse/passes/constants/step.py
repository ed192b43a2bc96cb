"""One call of a tape, as a rule about constants sees it, and tables of such rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fxsparse.passes.constants.values import Known, Shape, unknown
from fxsparse.tracing.tape import Call, Ref, Tape


@dataclass(frozen=True)
class Step:
    """One call with what is known of its arguments."""

    call: Call
    tape: Tape
    look: Callable[[Ref], Known]
    sized: bool  # one of its numbers was computed from sizes, and is another one for other inputs
    bias: Tensor | None = None  # a bias that the layer is about to get

    def arg(self, name: str, default: Any = None) -> Any:
        for position, argument in enumerate(self.call.op._schema.arguments):
            if argument.name == name:
                if position < len(self.call.args):
                    return self.call.args[position]
                return self.call.kwargs.get(name, argument.default_value if argument.has_default_value() else default)
        return default

    def has(self, name: str) -> bool:
        return any(argument.name == name for argument in self.call.op._schema.arguments)

    def known(self, name: str) -> Known | None:
        """What is known of an argument; None where there is none."""
        ref = self.arg(name)
        return self.look(ref) if isinstance(ref, Ref) else None

    def shape(self, ref: Any) -> Shape:
        return tuple(self.tape.shape(ref))

    @property
    def tensors(self) -> list[Ref]:
        return list(self.call.reads)

    @property
    def result(self) -> Shape:
        return self.shape(self.call.results[0])


Rule = Callable[[Step], "Known | Sequence[Known]"]


@dataclass(frozen=True)
class Family:
    """Rules that belong together: one file, one family."""

    rules: dict[str, Rule] = field(default_factory=dict)

    def rule(self, names: str) -> Callable[[Rule], Rule]:
        def add(function: Rule) -> Rule:
            self.rules.update({f"aten.{name}": function for name in names.split()})
            return function

        return add


def to_rank(x: Known, rank: int) -> Known:
    """New axes in front, as broadcasting makes them."""
    return x.moved(lambda t: t.reshape([1] * (rank - t.dim()) + list(t.shape))) if len(x.shape) <= rank else unknown(rank)
