"""The interface of engines: build from a network and example inputs, run, describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import LoweringError
from fxsparse.network import Network


class Built(Protocol):
    """A network, built for an engine."""

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Example inputs."""
        ...

    def run(self, *inputs: Any) -> list[Tensor]:
        """The outputs, flat, for inputs like those that it was built with."""
        ...

    def prepare(self, *inputs: Any) -> Callable[[], object]:
        """A function that runs once on these inputs: what is timed. Copies to the device are made before."""
        ...

    def describe(self) -> dict[str, Any]:
        """Engine, version, precision, threads, device: what a figure depends on."""
        ...


class Engine(Protocol):
    """A place to run networks, with its options."""

    @property
    def name(self) -> str: ...

    def build(self, model: Network | nn.Module, inputs: Sequence[Any] | None = None) -> Built: ...


def module_and_inputs(model: Network | nn.Module, inputs: Sequence[Any] | Tensor | None) -> tuple[nn.Module, tuple[Any, ...]]:
    """What is built, and example inputs for it: those given, or those that the network was traced with."""
    if isinstance(model, Network):
        if inputs is None:
            args, kwargs = model.origin.inputs
            if kwargs:
                raise LoweringError(f"engines take positional inputs, and this network was traced with {', '.join(kwargs)} by name")
            inputs = args
        model = model.module
    if inputs is None:
        raise LoweringError(f"to build a {type(model).__name__}, give example inputs, or a Network that knows its own")
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return model, materialised(given)


def materialised(inputs: tuple[Any, ...], seed: int = 0) -> tuple[Any, ...]:
    """Inputs with values: those of a loaded network are shapes alone, and zeros would flatter some kernels."""
    generator = torch.Generator().manual_seed(seed)

    def one(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        if tensor.dtype.is_floating_point:
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
        return torch.ones(tensor.shape, dtype=tensor.dtype)

    made: tuple[Any, ...] = tree_map_only(Tensor, one, inputs)
    return made


def fresh_inputs(inputs: Sequence[Any], seed: int = 0) -> tuple[Any, ...]:
    """Random inputs of the same shapes: floating ones normal, never all zero; whole numbers as they are."""
    generator = torch.Generator().manual_seed(seed)

    def one(tensor: Tensor) -> Tensor:
        if not tensor.dtype.is_floating_point:
            return tensor
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype).to(tensor.device)

    made: tuple[Any, ...] = tree_map_only(Tensor, one, tuple(inputs))
    return made


def require_like(given: Sequence[Any], wanted: Sequence[Any], batch_is_free: bool = False) -> None:
    """Inputs must have the shapes and types that the engine was built with."""
    ours, theirs = [[leaf for leaf in tree_leaves(tuple(each)) if isinstance(leaf, Tensor)] for each in (given, wanted)]
    if len(ours) != len(theirs):
        raise LoweringError(f"the engine takes {len(theirs)} tensors, and got {len(ours)}")
    for position, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        shapes = (a.shape[1:], b.shape[1:]) if batch_is_free and a.dim() == b.dim() and a.dim() else (a.shape, b.shape)
        if shapes[0] != shapes[1] or a.dtype != b.dtype:
            raise LoweringError(
                f"input {position} is {_said(a)}, and the engine was built for {_said(b)}; give that, or build it again with this input"
            )


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
