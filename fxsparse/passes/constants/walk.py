"""Walks a tape and keeps what is known of each tensor: parameters and buffers are, inputs are not, and rules say what follows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from fxsparse.passes.constants.rules import transfer
from fxsparse.passes.constants.step import Step
from fxsparse.passes.constants.values import Known, certain, unknown
from fxsparse.surgery.graphs import Where, all_graphs, locator
from fxsparse.tracing.tape import Call, Ref, Tape

_RENAMES = {"aten.as_strided_"}  # written as if it changed its argument; only strides do


@dataclass(frozen=True)
class Walk:
    """One run over a tape."""

    tape: Tape
    tensors: Mapping[str, Tensor]  # by first name, in the shapes of the tape
    new_biases: Mapping[str, Tensor]  # module -> the bias that it is about to get
    sized: Callable[[Tape, Call], bool]  # made by a node that takes numbers which were computed from sizes

    def steps(self) -> Iterator[Step]:
        """Every call with what is known of its arguments before it runs."""
        roots = memory_of(self.tape)
        fickle = {roots[ref.id] for call in self.tape.calls for ref in written(call)}
        states: dict[int, Known] = {}
        for value in self.tape.values:
            if value.key is not None and value.id not in fickle and value.key in self.tensors:
                states[value.id] = certain(self.tensors[value.key])

        def look(ref: Ref) -> Known:
            return states.get(ref.id) or unknown(len(self.tape.shape(ref)))

        for call in self.tape.calls:
            step = Step(call, self.tape, look, self._sized(call), self._bias(call))
            yield step
            made = transfer(step)
            for changed in written(call):
                for other in [each for each in states if roots[each] == roots[changed.id]]:
                    del states[other]
            for ref, known in zip(call.results, made, strict=True):
                if isinstance(ref, Ref):
                    states[ref.id] = known

    def _sized(self, call: Call) -> bool:
        if call.owner.node is None:  # plain Python: its numbers come from anywhere
            return any(isinstance(a, float) or type(a) is int for a in call.args)
        return self.sized(self.tape, call)

    def _bias(self, call: Call) -> Tensor | None:
        return self.new_biases.get(call.owner.module) if call.name in ("aten.convolution", "aten.mm") else None


def written(call: Call) -> Iterator[Ref]:
    """The tensors that a call changes in place. The running statistics of norms count as unchanged: this is eval mode."""
    return iter(()) if call.name in _RENAMES or "batch_norm" in call.name else call.writes


def memory_of(tape: Tape) -> list[int]:
    """Value -> the first value that has its memory."""
    roots = list(range(len(tape.values)))
    for call in tape.calls:
        shared = [a for a in call.op._schema.returns if a.alias_info is not None]
        first = next((a for a in call.args if isinstance(a, Ref)), None)
        if shared and first is not None:
            for ref in call.results:
                if isinstance(ref, Ref) and ref.id != first.id and ref not in call.args:
                    roots[ref.id] = roots[first.id]
    return roots


def sized(module: nn.Module) -> Callable[[Tape, Call], bool]:
    """Tells which calls are made by nodes that take a number which was computed from sizes."""
    found: set[Where] = set()
    for place in all_graphs(module):
        numbers: set[fx.Node] = set()
        for node in place.graph.nodes:
            inputs = node.all_input_nodes
            counts = bool(inputs) and _is_arithmetic(node.target) and all(each in numbers for each in inputs)
            if counts or (node.op == "call_method" and node.target == "size"):
                numbers.add(node)
            elif any(each in numbers for each in inputs):
                found.add(place.where(node))
    locate = locator(module)
    return lambda tape, call: locate(tape, call) in found


def _is_arithmetic(target: Callable[..., object] | str) -> bool:
    return callable(target) and (getattr(target, "__module__", "") in (operator.__name__, "_operator", "builtins", "math"))
