"""Tensors that a module keeps as plain attributes (`self.table = torch.zeros(1, 50, 64)`), in lists, or that stand beside its
class (`MEAN = torch.tensor(...)`): they follow the channels as buffers do."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.tracing.walk import all_modules, named_modules, own_attributes

KEPT, BESIDE = "_kept_", "_kept_beside_"  # names of buffers that no user has named
MOST = 256  # a model that keeps more tensors in lists keeps data there


def read_attributes(module: nn.Module, graphs: Iterable[torch.fx.Graph]) -> dict[str, Tensor]:
    """The plain attributes that these graphs of the module read, by qualified name, under all of their names. One whose class has an
    attribute of that name stays what it is: a buffer would be found only after the class was asked."""
    read = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"}
    if read:
        read.difference_update(name for name, _ in module.named_parameters(remove_duplicate=False))
        read.difference_update(name for name, _ in module.named_buffers(remove_duplicate=False))
    if not read:
        return {}
    found: dict[str, Tensor] = {}
    for prefix, each in named_modules(module, once=False):
        for name, value in own_attributes(each):
            if isinstance(value, Tensor) and not value.requires_grad and not hasattr(type(each), name):
                found[f"{prefix}.{name}" if prefix else name] = value
    wanted = {id(found[name]) for name in read & found.keys()}
    return {name: value for name, value in found.items() if id(value) in wanted}


def as_buffers(module: nn.Module, names: Iterable[str]) -> None:
    """Make these attributes buffers that are not in the state dict, in place."""
    for owner, name in _places(module, names):
        owner._buffers[name] = owner.__dict__.pop(name)
        owner._non_persistent_buffers_set.add(name)


def as_attributes(module: nn.Module, names: Iterable[str]) -> None:
    """The way back."""
    for owner, name in _places(module, names):
        owner.__dict__[name] = owner._buffers.pop(name)
        owner._non_persistent_buffers_set.discard(name)


def _places(module: nn.Module, names: Iterable[str]) -> list[tuple[nn.Module, str]]:
    """Each module once, however many names it has."""
    split = (name.rpartition(".") for name in names)
    places = {(id(owner), name): (owner, name) for prefix, _, name in split for owner in [module.get_submodule(prefix)]}
    return list(places.values())


def hold_others(root: nn.Module) -> bool:
    """Make buffers of the root of what is kept elsewhere, in place; whether there was any."""
    known = {id(each) for each in (*root.parameters(), *root.buffers())}
    for prefix, found in ((KEPT, _contained(root)), (BESIDE, _beside(root))):
        for place, tensor in itertools.islice(found, MOST):
            name = _named(prefix, place)
            if id(tensor) not in known and not (tensor.requires_grad or tensor.is_meta or hasattr(root, name)):
                root.register_buffer(name, tensor, persistent=False)
                known.add(id(tensor))
    return any(name.startswith(KEPT) for name in root._buffers)


def _named(prefix: str, place: str) -> str:
    return prefix + re.sub(r"\W", "_", place)


def release(root: nn.Module, but: Iterable[str] = (), prefix: str = KEPT) -> None:
    """The way back, for all but these; with another prefix, for buffers that others have added."""
    stay = set(but)
    for name in [name for name in root._buffers if name.startswith(prefix) and name not in stay]:
        del root._buffers[name]
        root._non_persistent_buffers_set.discard(name)


def still_beside(root: nn.Module) -> bool:
    """Whether the code has left what stands beside its classes as it was."""
    held = {name: value for name, value in root._buffers.items() if name.startswith(BESIDE)}
    now = {_named(BESIDE, place): value for place, value in _beside(root)} if held else {}
    return all(now.get(name) is value for name, value in held.items())


def part_ways(root: nn.Module) -> None:
    """Once traced, the buffers may lose channels, and what lies in the lists stays what it is."""
    for name, tensor in root._buffers.items():
        if name.startswith(KEPT) and tensor is not None:
            root._buffers[name] = tensor.detach()


def beside(root: nn.Module) -> list[Tensor]:
    """Those that user code reads past its modules: a copy for tracing has the very same."""
    return [each for name, each in root._buffers.items() if name.startswith(BESIDE) and each is not None]


def _contained(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in named_modules(root):
        for name, value in own_attributes(module):
            yield from _inside(f"{prefix}.{name}" if prefix else name, value, set())


def _inside(place: str, value: Any, opened: set[int]) -> Iterator[tuple[str, Tensor]]:
    if type(value) not in (list, tuple) or id(value) in opened:  # a list may hold itself, and dicts are caches as often as not
        return
    opened.add(id(value))
    for key, item in enumerate(value):
        if isinstance(item, Tensor):
            yield f"{place}.{key}", item
        else:
            yield from _inside(f"{place}.{key}", item, opened)


def _beside(root: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for names in beside_classes(root):
        yield from ((name, value) for name, value in list(names.items()) if type(value) is Tensor)
    for cls in dict.fromkeys(cls for kind in dict.fromkeys(map(type, all_modules(root))) for cls in kind.__mro__):
        yield from ((f"{cls.__name__}.{name}", value) for name, value in list(vars(cls).items()) if type(value) is Tensor)


def beside_classes(root: nn.Module) -> list[dict[str, Any]]:
    """The names that user code sees beside the classes of its modules, each file's once."""
    seen = (getattr(getattr(cls, "forward", None), "__globals__", {}) for cls in dict.fromkeys(map(type, all_modules(root))))
    return list({id(names): names for names in seen if not str(names.get("__name__")).startswith(("torch.", "fxsparse."))}.values())
