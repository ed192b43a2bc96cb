"""The modules of a network, in the order and under the names of torch's `named_modules`. That one hands each module up through a generator
for every level, and tracing goes through all of them a score of times."""

from __future__ import annotations

from typing import Any

from torch import nn

BOOKS = frozenset(vars(nn.Module()))  # the names under which every module keeps its hooks, parameters, buffers and children


def named_modules(root: nn.Module, *, once: bool = True) -> list[tuple[str, nn.Module]]:
    """With their qualified names; each module `once`, or under all of its names."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    left = [("", root)]
    while left:
        name, module = left.pop()
        if once and id(module) in seen:
            continue
        seen.add(id(module))
        found.append((name, module))
        if module._modules:
            prefix = f"{name}." if name else ""
            left += [(prefix + key, child) for key, child in reversed(list(module._modules.items())) if child is not None]
    return found


def own_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """What a module keeps beside what every module has."""
    return [(name, value) for name, value in module.__dict__.items() if name not in BOOKS]


def all_modules(root: nn.Module) -> list[nn.Module]:
    """Each module once."""
    return [module for _, module in named_modules(root)]
