"""A network while it is being written: live tensors, the lines of `__init__` and `forward`, and what they need."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from tests.networks.genes import Genes

Kind = Literal["vector", "sequence", "line", "image", "grid", "volume", "tokens"]
KINDS: tuple[Kind, ...] = ("image", "sequence", "vector", "line", "grid", "volume")  # of the floating ones
CHANNEL_AXIS: dict[Kind, int] = {"vector": 1, "sequence": 2, "line": 1, "image": 1, "grid": 3, "volume": 1}
AXIS_NAMES: dict[Kind, str] = {"vector": "bc", "sequence": "bnc", "line": "bcl", "image": "bchw", "grid": "bhwc", "volume": "bcdhw"}


@dataclass
class Value:
    """A live tensor: its name in `forward`, what its axes mean, their sizes behind the batch."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    degree: int = 1  # bounds how large it may be: products add degrees, norms and saturating functions reset them
    used: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def axis(self) -> int:
        """The channel axis, counted with the batch."""
        return CHANNEL_AXIS[self.kind]

    @property
    def c(self) -> int:
        return self.shape[self.axis - 1]

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(size for axis, size in enumerate(self.shape, 1) if axis != self.axis)

    @property
    def last(self) -> bool:
        """Channels are the last axis."""
        return self.axis == len(self.shape)

    def sized(self, channels: int | None = None, spatial: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """The shape with other channels or other spatial sizes."""
        return shape_of(self.kind, self.c if channels is None else channels, self.spatial if spatial is None else spatial)

    def cut(self, where: str) -> str:
        """`x[:, where]` along the channels."""
        return f"{self.name}[..., {where}]" if self.last and len(self.shape) > 1 else f"{self.name}[:, {where}]"

    def per_channel(self, channels: int | None = None) -> tuple[int, ...]:
        """The shape of a tensor that broadcasts over everything but channels."""
        c = self.c if channels is None else channels
        return (c,) if self.last else (c,) + (1,) * (len(self.shape) - self.axis)


def shape_of(kind: Kind, channels: int, spatial: tuple[int, ...]) -> tuple[int, ...]:
    position = CHANNEL_AXIS[kind] - 1
    return (*spatial[:position], channels, *spatial[position:])


def text(parts: Iterable[object]) -> str:
    """`(3, 4)` as `3, 4`."""
    return ", ".join(map(str, parts))


@dataclass
class Body:
    genes: Genes
    values: list[Value] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    helpers: dict[str, str] = field(default_factory=dict)
    layers: list[tuple[str, Kind, int, int]] = field(
        default_factory=list
    )  # convolutions that may be used again: name, kind, channels in and out
    _count: int = 0

    def fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}{self._count}"

    def do(self, statement: str) -> None:
        self.steps.append(statement)

    def let(self, expression: str, kind: Kind, shape: tuple[int, ...], degree: int = 1) -> Value:
        """A new live tensor."""
        assert all(size >= 1 for size in shape), (expression, shape)
        value = Value(self.fresh("x"), kind, shape, degree)
        self.do(f"{value} = {expression}")
        self.values.append(value)
        return value

    def like(self, x: Value, expression: str, *, degree: int | None = None, channels: int | None = None) -> Value:
        """A new live tensor of the kind and size of `x`."""
        return self.let(expression, x.kind, x.sized(channels), x.degree if degree is None else degree)

    def attribute(self, hint: str, expression: str) -> str:
        name = f"self.{self.fresh(hint)}"
        self.setup.append(f"{name} = {expression}")
        return name

    def parameter(self, *shape: int, hint: str = "weight") -> str:
        return self.attribute(hint, f"nn.Parameter(torch.empty({text(shape)}))")

    def buffer(self, expression: str, hint: str = "constant") -> str:
        name = self.fresh(hint)
        self.setup.append(f'self.register_buffer("{name}", {expression})')
        return f"self.{name}"

    def helper(self, definition: type) -> str:
        """A class that the network's source must contain; its bases that are helpers, too, come first."""
        self.helpers.setdefault(definition.__name__, source_of(definition))
        return definition.__name__

    def block(self, definition: type, *arguments: object) -> str:
        """An instance of a helper class as a submodule."""
        return self.attribute(definition.__name__.lower(), f"{self.helper(definition)}({', '.join(map(str, arguments))})")

    def either(self, x: Value, function: str, hint: str, module: str) -> str:
        """The same operator as a function or as a module of `x`."""
        return f"{self.attribute(hint, module)}({x})" if self.genes.flag() else function

    def sizes(self, x: Value) -> list[str]:
        """Texts for the sizes of `x`, batch first: numbers, `x.shape[i]`, `x.size(i)`, or names unpacked from `x.shape`."""
        axes = range(len(x.shape) + 1)
        match self.genes.pick("numbers", "unpacked", "shape", "size"):
            case "numbers":
                return [f"{x}.shape[0]", *map(str, x.shape)]
            case "unpacked":
                names = [self.fresh(letter) for letter in AXIS_NAMES[x.kind]]
                self.do(f"{', '.join(names)} = {x}.shape")
                return names
            case "shape":
                return [f"{x}.shape[{i}]" for i in axes]
            case _:
                return [f"{x}.size({i})" for i in axes]

    def new_input(self, kind: Kind, shape: tuple[int, ...]) -> Value:
        value = Value(self.fresh("tokens" if kind == "tokens" else "input"), kind, shape)
        self.inputs.append(value)
        if kind != "tokens":
            self.values.append(value)
        return value

    def width(self) -> int:
        """Channels of a new layer."""
        return self.genes.pick(4, 6, 8, 5, 12, 3, 10, 7, 16, 9, 2)


@cache
def source_of(definition: type) -> str:
    return inspect.getsource(definition)
