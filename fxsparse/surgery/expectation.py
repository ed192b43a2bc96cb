"""The tape that the algebra predicts, cut up by who makes the calls, and the comparison with what was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fxsparse.axes.factors import Axis
from fxsparse.axes.predict import Prediction
from fxsparse.axes.reader import TapeReading
from fxsparse.tracing.tape import Call, Ref, Tape

WHAT_CHANGES_NOTHING = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "generator", "stride", "storage_offset"}
SIZES = {"size", "shape", "sizes"}
GIVING_BACK = {"aten.alias", "aten.clone", "aten.contiguous", "aten.slice"}  # what they are given, where the shape stays


@dataclass(frozen=True, slots=True)
class Expected:
    """One call as it should be: its operator, the shapes of its results, its literals."""

    call: Call
    shapes: tuple[tuple[int, ...] | None, ...]  # None: the value has no shape of its own any more
    axes: tuple[list[Axis] | None, ...]
    source: tuple[int, ...] | None  # the shape of its first argument, if that is a tensor, before any change
    contents: tuple[tuple[float, ...] | None, ...]  # numbers that the forward pass makes and that may not change
    literals: dict[str, Any]  # every argument that is no tensor
    gives_back: bool  # the very values that it is given: torch may leave it out, or make another such call


class Expectation:
    """All expected calls of one tape."""

    def __init__(self, reading: TapeReading, prediction: Prediction, ragged: set[int]) -> None:
        self.reading = reading
        self.prediction = prediction
        self.ragged = ragged
        self.by_node: dict[tuple[str, str], list[list[int]]] = {}
        self.shell: list[int] = []
        previous: tuple[str | None, str | None, str] | None = None
        for position, call in enumerate(reading.tape.calls):
            owner = call.owner
            if owner.graph is None or owner.node is None:
                self.shell.append(position)
                previous = None
                continue
            key = (owner.graph, owner.node)
            runs = self.by_node.setdefault(key, [])
            if previous != (owner.graph, owner.node, "") or not runs:
                runs.append([])
            runs[-1].append(position)
            previous = (owner.graph, owner.node, "")

    def expected(self, position: int) -> Expected:
        call, said = self.reading.tape.calls[position], self.reading.calls[position]
        literals = {name: value for name, value in _arguments(call).items() if not _has_tensor(value)}
        literals.update({name: self.prediction.value(value) for name, value in said.literals.items()})
        shapes = tuple(
            None if not isinstance(ref, Ref) or ref.id in self.ragged else self.prediction.shape(self.reading.axes[ref.id])
            for ref in call.results
        )
        contents = tuple(
            self.reading.tape.values[ref.id].content if isinstance(ref, Ref) and shape == self.reading.tape.shape(ref) else None
            for ref, shape in zip(call.results, shapes, strict=True)
        )
        axes = tuple(self.reading.axes[ref.id] if isinstance(ref, Ref) else None for ref in call.results)
        first = call.args[0] if call.args else None
        source = self.reading.tape.shape(first) if isinstance(first, Ref) else None
        gives_back = (
            call.name in GIVING_BACK and isinstance(first, Ref) and first.id not in self.ragged and self.value_of(first) == shapes[0]
        )
        return Expected(call, shapes, axes, source, contents, literals, gives_back)

    def literals_of_module(self, name: str) -> dict[str, Any]:
        """Changed literals of the calls that a leaf module makes, by argument name."""
        found: dict[str, Any] = {}
        for call, said in zip(self.reading.tape.calls, self.reading.calls, strict=True):
            if call.owner.module == name:
                for argument, value in said.literals.items():
                    found.setdefault(argument, self.prediction.value(value))
        return found

    def value_of(self, ref: Ref) -> tuple[int, ...]:
        return self.prediction.shape(self.reading.axes[ref.id])


def _arguments(call: Call) -> dict[str, Any]:
    names = [argument.name for argument in call.op._schema.arguments]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Ref) or (isinstance(value, (list, tuple)) and any(isinstance(v, Ref) for v in value))


def difference(tape: Tape, made: Sequence[Call], expected: Sequence[Expected]) -> str | None:
    """What differs between calls that were made and those that were expected, in words; None when nothing does."""
    made = [call for call in made if not _gives_back(tape, call)]
    expected = [each for each in expected if not each.gives_back]
    if len(made) != len(expected):
        return f"{len(made)} calls instead of {len(expected)}"
    for call, wanted in zip(made, expected, strict=True):
        if call.op is not wanted.call.op:
            return f"{call.op} instead of {wanted.call.op}"
        for ref, shape in zip(call.results, wanted.shapes, strict=True):
            if isinstance(ref, Ref) and shape is not None and tape.shape(ref) != shape:
                return f"{call.op} makes shape {tape.shape(ref)} instead of {shape}"
        for ref, content in zip(call.results, wanted.contents, strict=True):
            if isinstance(ref, Ref) and content is not None and tape.values[ref.id].content != content:
                return f"{call.op} makes {tape.values[ref.id].content} instead of {content}"
        arguments = _arguments(call)
        for name, value in wanted.literals.items():
            if name in WHAT_CHANGES_NOTHING or name not in arguments or call.name == "aten.squeeze":  # whatever goes, the shape says it
                continue
            written = arguments[name]
            if name in SIZES and isinstance(written, (list, tuple)) and len(written) == len(value):  # -1: what the result has
                written = [right if -1 in (size, right) else size for size, right in zip(written, value, strict=True)]
            if not _alike(written, value):
                return f"{call.op} has {name}={arguments[name]} instead of {value}"
    return None


def _gives_back(tape: Tape, call: Call) -> bool:
    source = call.args[0] if call.name in GIVING_BACK else None
    return isinstance(source, Ref) and tape.shape(source) == tape.shape(call.results[0])


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    return bool(a == b)
