"""Functions that remember their results (`functools.lru_cache`), and tables that do so (`CACHE[shape] = table`), while a model
is traced.

Libraries ask such functions about shapes. An answer from another run, or from another tensor of the same shape, knows nothing of where the
sizes come from now: it would bake them, or carry another graph's into this one. A tensor that was remembered comes from nowhere, and one
that a recording leaves in a table is on meta, of no use to the user's own model.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.tracing.numbers import Traced
from fxsparse.tracing.own_modules import FOREIGN, Names
from fxsparse.tracing.walk import all_modules

CELL = "cell_contents"
LARGE = 1000  # entries: in a table with more of them, what replaces another entry is not looked for
_Cached = functools._lru_cache_wrapper


@contextlib.contextmanager
def uncached(root: nn.Module) -> Iterator[None]:
    """While this is open, cached functions of modules and of the network's classes compute what depends on traced sizes; afterwards
    tables have forgotten its tensors."""
    replaced: list[tuple[Any, str, Any]] = []
    classes = _classes(root)
    tables = [(table, _content_of(table)) for table in _tables(classes)]
    try:
        for owner, name in [*_in_modules(), *_in_classes(classes)]:
            cached = owner.cell_contents if name == CELL else vars(owner)[name]
            if isinstance(cached, _Cached):  # not met before: a script is two modules, and a decorated function may stand in two
                setattr(owner, name, _computing(cached))
                replaced.append((owner, name, cached))
        yield
    finally:
        for owner, name, cached in reversed(replaced):  # one may have two names
            setattr(owner, name, cached)
        for table, before in tables:
            with contextlib.suppress(Exception):  # one of a kind of its own, which may not let go
                if not _unchanged(table, before):
                    _forget(table, before)


def _in_modules() -> Iterator[tuple[Any, str]]:
    for module, name in CACHED:
        value = vars(module).get(name)
        yield from [(module, name)] if isinstance(value, _Cached) else _cells(value)


def _cells(function: Any) -> list[tuple[CellType, str]]:
    """Where a function, or a method, has cached ones behind a decorator of the library."""
    function = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    closure = function.__closure__ or () if isinstance(function, FunctionType) else ()
    return [(cell, CELL) for cell in closure if isinstance(_content(cell), _Cached)]


CACHED = Names(lambda name, value: isinstance(value, _Cached) or _cells(value))
TABLES = Names(lambda name, value: isinstance(value, (dict, list)) and not name.startswith("__"))


def _classes(root: nn.Module) -> list[type]:
    """Those of a user's code, of which the modules are."""
    classes = {cls for kind in {type(module) for module in all_modules(root)} for cls in kind.__mro__}
    return [cls for cls in classes if cls.__module__.partition(".")[0] not in FOREIGN]


def _in_classes(classes: list[type]) -> Iterator[tuple[Any, str]]:
    for cls in classes:
        for name, value in list(vars(cls).items()):
            if isinstance(value, _Cached):
                yield cls, name
            yield from _cells(value)


def _tables(classes: list[type]) -> Iterator[Any]:
    for place, name in [*TABLES, *((cls, name) for cls in classes for name in list(vars(cls)))]:
        value = vars(place).get(name)
        if isinstance(value, (dict, list)):
            yield value
    yield from (vars(sys.modules[name]) for name in {cls.__module__ for cls in classes} if name in sys.modules)  # global MASK
    yield from classes


def _content_of(table: Any) -> Any:
    """What is in a table, or a class; only how much, where that is a lot."""
    if isinstance(table, type):
        return dict(vars(table))
    kind: Any = dict if isinstance(table, dict) else list
    length = kind.__len__(table)
    if length > LARGE:
        return length
    return dict(dict.items(table)) if isinstance(table, dict) else list.copy(table)  # `copy` asks a table that makes what it is asked for


def _unchanged(table: Any, before: Any) -> bool:
    """Whether nothing stands elsewhere, as quickly as can be said: nearly always it is so."""
    now: Any = dict(vars(table)) if isinstance(table, type) else table
    kind: Any = dict if isinstance(now, dict) else list
    try:
        return bool(kind.__len__(now) == before if isinstance(before, int) else kind.__eq__(now, before))
    except Exception:  # tensors are neither equal nor not
        return False


def _forget(table: Any, before: Any) -> None:
    """What a recording put into a table, where that is of a recording's; what stood in its place before is put back."""
    if isinstance(table, type):
        for key, value in list(vars(table).items()):
            if before.get(key) is not value and _of_a_recording(value):
                setattr(table, key, before[key]) if key in before else delattr(table, key)
    elif isinstance(before, int):
        new = list(dict.items(table))[before:] if isinstance(table, dict) else []
        for key, _ in filter(_of_a_recording, new):
            del table[key]
        if isinstance(table, list) and len(table) > before:
            table[before:] = [value for value in table[before:] if not _of_a_recording(value)]
    elif isinstance(table, dict):
        for key, value in list(dict.items(table)):
            if key in before and before[key] is not value and _of_a_recording(value):
                table[key] = before[key]
            elif key not in before and _of_a_recording((key, value)):
                del table[key]
    elif len(table) == len(before):
        for index, (value, own) in enumerate(zip(list(table), before, strict=True)):
            if value is not own and _of_a_recording(value):
                table[index] = own
    else:
        own = {id(value) for value in before}
        kept = [value for value in table if id(value) in own or not _of_a_recording(value)]
        if len(kept) < len(table):
            table[:] = kept


def _of_a_recording(value: Any) -> bool:
    return any(isinstance(leaf, Traced) or (isinstance(leaf, Tensor) and leaf.is_meta) for leaf in tree_leaves(value))


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
        misses = cached.cache_info().misses
        result = cached(*args, **kwargs)
        if cached.cache_info().misses > misses:  # it is of this very run, and one that computes it twice would be another
            return result
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
