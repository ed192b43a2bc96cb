"""Structural copies of modules that copy no weights."""

from __future__ import annotations

import copy
import copyreg
import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.tracing.attributes import beside
from fxsparse.tracing.walk import BOOKS, all_modules, named_modules, own_attributes

_ATOMS = frozenset({
    *(type(None), bool, int, float, complex, str, bytes, type, types.FunctionType, types.BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.Size),
})  # fmt: skip
_HOOKS = frozenset({dict, OrderedDict, set})  # what keeps a module's hooks, parameters and children
_ABSENT = object()


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor a module holds: parameters, buffers, and tensors kept as plain attributes, singly or in containers."""
    opened: set[int] = set()  # a list may hold itself
    for each in all_modules(module):
        left = [each._parameters, each._buffers, *(value for _, value in own_attributes(each) if type(value) not in _ATOMS)]
        while left:
            item = left.pop()
            kind = type(item)
            if kind in (list, tuple, dict):
                if id(item) not in opened and (kind is not dict or isinstance(next(iter(item), None), str)):
                    opened.add(id(item))
                    left += [one for one in (item.values() if kind is dict else item) if type(one) not in _ATOMS]
            elif isinstance(item, Tensor):
                yield item


def copy_with(module: nn.Module, replace: Callable[[Tensor], Tensor], keep: Iterable[object] = ()) -> nn.Module:
    """A deep copy in which each tensor is what `replace` makes of it; tied tensors stay tied. What is to `keep` is shared, not copied."""
    memo: dict[int, Any] = {id(each): each for each in keep}
    for tensor in tensors_of(module):
        if id(tensor) not in memo:
            memo[id(tensor)] = replace(tensor)
    made: nn.Module = duplicate(module, memo)
    return made


def duplicate(value: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy(value, memo)` gives, with a short way for what modules are made of: most of a module's fifteen containers are
    empty, and the copy of a large network would otherwise cost as much as tracing it."""
    cls: Any = type(value)
    if cls in _ATOMS or (cls is tuple and all([type(item) in _ATOMS for item in value])):
        return value
    known = memo.get(id(value), _ABSENT)
    if known is not _ABSENT:
        return known
    made: Any
    if cls is dict or (cls is OrderedDict and not vars(value)):
        made = memo[id(value)] = cls()
        for key, item in value.items():
            made[duplicate(key, memo)] = duplicate(item, memo)
        return made
    if cls is list:
        made = memo[id(value)] = []
        made.extend([duplicate(item, memo) for item in value])
        return made
    if isinstance(value, nn.Module) and _ordinary(cls) and "__deepcopy__" not in value.__dict__:
        state: Any = value.__getstate__()
        if type(state) is dict:
            made = memo[id(value)] = cls.__new__(cls)
            twin = state.copy()
            for key, item in state.items():
                kind: Any = type(item)
                if kind not in _ATOMS:
                    twin[key] = kind() if kind in _HOOKS and not item and key in BOOKS else duplicate(item, memo)
            made.__setstate__(twin)
            return made
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        if isinstance(value, nn.Module):
            raise
        memo[id(value)] = value  # a lock, an open file, a module of Python: whatever will not be copied is shared
        return value


@functools.cache
def _ordinary(cls: Any) -> bool:
    """Whether a class of modules is copied the usual way: a new object and its attributes."""
    usual: Any = object
    plain = cls.__reduce_ex__ is usual.__reduce_ex__ and cls.__reduce__ is usual.__reduce__ and cls not in copyreg.dispatch_table
    special = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
    return plain and not any(hasattr(cls, name) for name in special) and not any(getattr(base, "__slots__", ()) for base in cls.__mro__)


def to_meta(tensor: Tensor) -> Tensor:
    meta = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=tensor.requires_grad)
    return meta


def is_flag(tensor: Tensor) -> bool:
    """A single whole number or truth value: the forward pass may ask for it."""
    return tensor.numel() == 1 and not isinstance(tensor, nn.Parameter) and not tensor.is_floating_point() and not tensor.is_complex()


def to_meta_but_flags(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True) if is_flag(tensor) and not tensor.is_meta else to_meta(tensor)


def meta_copy(module: nn.Module) -> nn.Module:
    """The module on meta tensors: its code and shapes, without its data but for flags, and for what stands beside its class."""
    with torch.no_grad():
        return copy_with(module, to_meta_but_flags, keep=beside(module))


def shared_copy(module: nn.Module) -> nn.Module:
    """A module of its own that holds the very same tensors."""
    return copy_with(module, lambda tensor: tensor)


def double_copy(module: nn.Module, *, hollow: bool = False) -> nn.Module:
    """A copy on the CPU in which floating-point tensors are float64, those that some old parametrizations compute and keep included. The
    parameters of a `hollow` one have shapes, but no memory: others are given to each call."""

    def double(tensor: Tensor) -> Tensor:
        dtype = torch.float64 if tensor.is_floating_point() else torch.complex128 if tensor.is_complex() else tensor.dtype
        if not isinstance(tensor, nn.Parameter):
            return tensor.detach().to("cpu", dtype, copy=True)
        made = torch.zeros((), dtype=dtype).expand(tensor.shape) if hollow else tensor.detach().to("cpu", dtype, copy=True)
        return nn.Parameter(made, requires_grad=tensor.requires_grad)

    return copy_with(module, double)


def names_of(module: nn.Module) -> dict[int, str]:
    """id of each submodule -> its first qualified name."""
    names: dict[int, str] = {}
    for name, each in named_modules(module, once=False):
        names.setdefault(id(each), name)
    return names
