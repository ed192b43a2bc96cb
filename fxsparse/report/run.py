"""What a report knows of one run, as plain data that is kept beside the run: report.json."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from fxsparse.errors import CheckpointError

FORMAT = "fxsparse-report/1"
FILE = "report.json"
NEARLY = 0.99  # a network with this part of its weights not zero is dense
LARGEST = 64 << 20  # bytes of a file that is read whole

# Measures, in the order of the page: key -> (heading, whether less is better).
MEASURES: dict[str, tuple[str, bool]] = {
    "accuracy": ("accuracy", False),
    "latency_ms": ("latency", True),
    "macs": ("MACs", True),
    "parameters": ("parameters", True),
    "nonzeros": ("weights not zero", True),
    "bytes": ("size", True),
}


@dataclass(frozen=True)
class MemberLine:
    """One axis of one tensor that belongs to a group."""

    tensor: str
    axis: int
    role: str  # produces, consumes or follows


@dataclass(frozen=True)
class GroupLine:
    """A group of units that go together: how wide it was, and is."""

    name: str
    kind: str
    before: int
    after: int
    prunable: bool
    reason: str
    unit_parameters: int
    unit_macs: int
    members: tuple[MemberLine, ...] = ()

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True)
class LayerLine:
    """A module with parameters of its own; its shapes are those of its largest tensor."""

    name: str
    kind: str
    tensor: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Density:
    """How many weights of a tensor are not zero."""

    tensor: str
    nonzeros: int
    weights: int


@dataclass(frozen=True)
class Run:
    """One network, and how it came to be. What is not known is left empty, and the page leaves its section out."""

    name: str
    model: str | None = None
    command: str | None = None  # as it was typed
    measures: dict[str, float] = field(default_factory=dict)  # keys of MEASURES
    before: dict[str, float] = field(default_factory=dict)  # the same of the network it was made from
    groups: tuple[GroupLine, ...] = ()
    layers: tuple[LayerLine, ...] = ()
    densities: tuple[Density, ...] = ()
    proofs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()  # what to type to do it again, and to go on
    environment: dict[str, str] = field(default_factory=dict)
    epochs: tuple[dict[str, Any], ...] = ()
    timeline: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = finite({"format": FORMAT, **asdict(self)})
        return plain

    @classmethod
    def from_dict(cls, said: Any, where: str) -> Run:
        """From what a file says; an error names the entry that is wrong."""
        if not isinstance(said, Mapping) or said.get("format") != FORMAT:
            raise CheckpointError(f"{where} is no {FORMAT} file; it was written by something else or by another version")
        run = _made(cls, {key: value for key, value in said.items() if key != "format"}, where)
        assert isinstance(run, cls)
        return run


def write_run(run: Run, path: Path) -> None:
    path.write_text(json.dumps(run.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_run(path: Path) -> Run:
    return Run.from_dict(read_json(path), str(path))


def read_json(path: Path) -> Any:
    """The content of a JSON file, with a sentence when it is none."""
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} is larger than {LARGEST >> 20} MiB, which no file of a report is")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error


def finite(value: Any) -> Any:
    """The same, with None for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def _made(hint: Any, value: Any, where: str) -> Any:
    """The value as the type that is asked for; anything else is an error."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        names = {each.name for each in fields(hint)}
        if not isinstance(value, Mapping) or not set(value) <= names:
            raise _wrong(where, f"a table with {', '.join(sorted(names))}")
        try:
            return hint(**{name: _made(hints[name], each, f"{where}: {name}") for name, each in value.items()})
        except TypeError as error:
            raise CheckpointError(f"{where} is incomplete: {error}") from error
    if origin is types.UnionType:
        return None if value is None else _made(next(each for each in inner if each is not types.NoneType), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, "a list")
        return tuple(_made(inner[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, "a table")
        return {str(key): _made(inner[1], each, f"{where}[{key!r}]") for key, each in value.items()}
    numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is float and numeric:
        return value
    if hint is float or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(where, {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, str(hint)))
    return value


def _wrong(where: str, wanted: str) -> CheckpointError:
    return CheckpointError(f"{where} should be {wanted}")
