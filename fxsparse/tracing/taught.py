"""Modules that are taught as a whole: one call on the tape, one node in the graph, whatever they do inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Resize = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class ModuleSchema:
    """What the readers of a tape ask of an operator's schema. All arguments are given by keyword, so it names none."""

    name: str
    arguments: tuple[Any, ...] = ()
    returns: tuple[Any, ...] = ()
    is_mutable: bool = False


class ModuleOperator:
    """Stands on the tape where an ATen operator stands otherwise."""

    namespace = "module"
    tags: tuple[Any, ...] = ()

    def __init__(self, cls: type[nn.Module], resize: Resize | None) -> None:
        self._schema = ModuleSchema(f"module::{cls.__module__}.{cls.__qualname__}")
        self.resize = resize

    def __str__(self) -> str:
        return self._schema.name.partition("::")[2]

    @property
    def key(self) -> str:
        """The name that the call has on the tape."""
        return f"{self.namespace}.{self}"


TAUGHT: dict[type, ModuleOperator] = {}


def operator_of(module: nn.Module) -> ModuleOperator | None:
    """The operator of a module whose class was taught; a subclass may do anything and does not count, a parametrization does."""
    cls = type(module)
    return TAUGHT.get(cls.__mro__[1] if is_parametrized(module) else cls)


def is_parametrized(module: nn.Module) -> bool:
    """torch.nn.utils.parametrize put a class of its own in front of this module's."""
    return "parametrizations" in module._modules


def call_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a rule can ask for by name: the arguments of `forward`, nested ones opened, then the parameters, then the buffers."""
    try:
        given: dict[str, Any] = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        given = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
    found: dict[str, Any] = {}
    for name, value in given.items():
        leaves = tree_leaves(value)
        single = len(leaves) == 1 and leaves[0] is value
        found.update({name if single else f"{name}.{i}": leaf for i, leaf in enumerate(leaves)})
    plain = {name: value for name, value in found.items() if value is None or isinstance(value, (Tensor, bool, int, float, str))}
    return {**plain, **dict(module.named_parameters()), **dict(module.named_buffers())}
