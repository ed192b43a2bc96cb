"""Structural copies of modules that copy no weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor a module holds: parameters, buffers, and tensors kept as plain attributes, singly or in containers."""
    for each in module.modules():
        for value in each.__dict__.values():
            stack = [value]
            while stack:
                item = stack.pop()
                if isinstance(item, Tensor):
                    yield item
                elif type(item) in (list, tuple):
                    stack.extend(item)
                elif type(item) is dict and item and isinstance(next(iter(item)), str):
                    stack.extend(item.values())


def copy_with(module: nn.Module, replace: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy in which each tensor is what `replace` makes of it; tied tensors stay tied."""
    memo: dict[int, object] = {}
    for tensor in tensors_of(module):
        if id(tensor) not in memo:
            memo[id(tensor)] = replace(tensor)
    return copy.deepcopy(module, memo)


def to_meta(tensor: Tensor) -> Tensor:
    meta = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=tensor.requires_grad)
    return meta


def meta_copy(module: nn.Module) -> nn.Module:
    """The module on meta tensors: its code and shapes, without its data."""
    with torch.no_grad():
        return copy_with(module, to_meta)


def shared_copy(module: nn.Module) -> nn.Module:
    """A module of its own that holds the very same tensors."""
    return copy_with(module, lambda tensor: tensor)


def names_of(module: nn.Module) -> dict[int, str]:
    """id of each submodule -> its first qualified name."""
    names: dict[int, str] = {}
    for name, each in module.named_modules(remove_duplicate=False):
        names.setdefault(id(each), name)
    return names
