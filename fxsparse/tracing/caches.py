"""Functions that remember their results (`functools.lru_cache`), while a model is traced.

Libraries ask such functions about shapes. An answer from another run, or from another tensor of the same shape, knows nothing of where the
sizes come from now: it would bake them, or carry another graph's into this one. A tensor that was remembered comes from nowhere.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import CellType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.tracing.numbers import Traced

CELL = "cell_contents"
_Cached = functools._lru_cache_wrapper
_FOREIGN = {*sys.stdlib_module_names, "numpy", "scipy", "sympy", "torch", "networkx", "fxsparse"}  # large, and not asked about shapes
_seen: dict[str, tuple[ModuleType, int, list[str]]] = {}  # module -> how many names it had, and those of cached functions


@contextlib.contextmanager
def uncached(root: nn.Module) -> Iterator[None]:
    """While this is open, cached functions of modules and of the network's classes compute what depends on traced sizes."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for owner, name in [*_in_modules(), *_in_classes(root)]:
            cached = owner.cell_contents if name == CELL else vars(owner)[name]
            setattr(owner, name, _computing(cached))
            replaced.append((owner, name, cached))
        yield
    finally:
        for owner, name, cached in reversed(replaced):  # one may have two names
            setattr(owner, name, cached)


def _in_modules() -> Iterator[tuple[Any, str]]:
    for key, module in list(sys.modules.items()):
        if key.partition(".")[0] in _FOREIGN or not isinstance(module, ModuleType):
            continue
        known = _seen.get(key)
        if known is None or known[0] is not module or known[1] != len(vars(module)):
            names = [name for name, value in list(vars(module).items()) if isinstance(value, _Cached)]
            known = _seen[key] = (module, len(vars(module)), names)
        yield from ((module, name) for name in known[2] if isinstance(vars(module).get(name), _Cached))


def _in_classes(root: nn.Module) -> Iterator[tuple[Any, str]]:
    classes = {cls for module in root.modules() for cls in type(module).__mro__}
    for cls in classes:
        if cls.__module__.partition(".")[0] not in _FOREIGN:
            for name, value in list(vars(cls).items()):
                if isinstance(value, _Cached):
                    yield cls, name
                closure = getattr(getattr(value, "__func__", value), "__closure__", None) or ()
                yield from ((cell, CELL) for cell in closure if isinstance(_content(cell), _Cached))  # behind a decorator of the library


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


def _computing(cached: functools._lru_cache_wrapper[Any]) -> Callable[..., Any]:
    """The same function, which computes anew what depends on traced numbers or devices, or has tensors in its result."""

    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _traced((args, kwargs)):
            return cached.__wrapped__(*args, **kwargs)
        result = cached(*args, **kwargs)
        return cached.__wrapped__(*args, **kwargs) if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)) else result

    for name in ("cache_clear", "cache_info", "cache_parameters"):
        setattr(call, name, getattr(cached, name))
    return call


def _traced(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_traced, value))
    if isinstance(value, dict):
        return any(map(_traced, value.values()))
    return isinstance(value, (*Traced, Tensor)) or (isinstance(value, torch.device) and value.type == "meta")
