"""Tensors that a module keeps as plain attributes (`self.table = torch.zeros(1, 50, 64)`): they follow the channels as buffers do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def read_attributes(module: nn.Module, graphs: Iterable[torch.fx.Graph]) -> dict[str, Tensor]:
    """The plain attributes that these graphs of the module read, by qualified name, under all of their names."""
    registered = {name for name, _ in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))}
    read = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"} - registered
    found: dict[str, Tensor] = {}
    for prefix, each in module.named_modules(remove_duplicate=False):
        for name, value in each.__dict__.items():
            if isinstance(value, Tensor) and not value.requires_grad:
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
