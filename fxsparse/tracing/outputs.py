"""What a forward pass gives: tensors in tuples, lists and dicts, and in the attributes of a user's own result classes."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_NUMBERS = (int, float, complex, str, bytes, torch.SymInt, torch.SymFloat, torch.SymBool)  # those of a trace remember where they come from
_OPAQUE = (type, nn.Module, types.FunctionType, types.MethodType, types.ModuleType, *_NUMBERS)


def attributes_of(value: Any) -> dict[str, Any] | None:
    """The attributes of an object that torch's trees do not open; nothing where there is nothing to be opened."""
    if isinstance(value, _OPAQUE):
        return None
    if hasattr(value, "__dict__"):
        own: dict[str, Any] = vars(value)
        return own
    fields = getattr(type(value), "__dataclass_fields__", None)  # with slots
    return None if fields is None else {name: getattr(value, name) for name in fields if hasattr(value, name)}


def output_tensors(out: Any) -> list[Tensor]:
    """All tensors of a result, in order. torch's trees do not open plain classes, but what stands in them is given all the same."""
    return opened(out)[0]


def opened(value: Any) -> tuple[list[Tensor], list[Any]]:
    """All tensors, and all objects that were opened to find them."""
    tensors: list[Tensor] = []
    objects: dict[int, Any] = {}

    def visit(value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                tensors.append(leaf)
            elif id(leaf) not in objects and (own := attributes_of(leaf)) is not None:
                objects[id(leaf)] = leaf
                visit(list(own.values()))

    visit(value)
    return tensors, list(objects.values())
