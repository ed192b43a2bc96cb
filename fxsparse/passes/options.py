"""The options of passes, held against their declared types: a wrong one is a sentence, not a surprise later."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fxsparse.errors import PassError


def check_options(pass_: Any) -> None:
    """Check each field of a frozen dataclass against its annotation. Lists become tuples, and whole numbers floats where asked."""
    hints = typing.get_type_hints(type(pass_))
    for each in fields(pass_):
        value = getattr(pass_, each.name)
        fitted = fit(value, hints[each.name])
        if fitted is _WRONG:
            raise PassError(f"{type(pass_).name}: {each.name} is {said(hints[each.name])}, not {value!r}")
        object.__setattr__(pass_, each.name, fitted)


class _Wrong:
    pass


_WRONG = _Wrong()


def fit(value: Any, hint: Any) -> Any:
    """The value as `hint` wants it, or _WRONG."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        exact = [hint for hint in args if hint is type(value)]
        results = (fit(value, hint) for hint in (*exact, *args))
        return next((result for result in results if result is not _WRONG), _WRONG)
    if origin is typing.Literal:
        return value if value in args and type(value) in {type(a) for a in args} else _WRONG
    if hint is Any or isinstance(hint, typing.TypeVar):
        return value
    if hint in (None, type(None)):
        return value if value is None else _WRONG
    if hint is float:
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _WRONG
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _WRONG
    if origin is tuple or origin is Sequence:
        return _fit_sequence(value, args)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _fit_mapping(value, args)
    kind = origin or hint
    try:
        return value if isinstance(value, kind) else _WRONG
    except TypeError:  # a type that cannot be asked, such as a protocol
        return value


def _fit_sequence(value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _WRONG
    exact = len(args) > 1 and args[-1] is not ...
    if exact and len(args) != len(value):
        return _WRONG
    hints = args if exact else (args[0] if args else Any,) * len(value)
    items = [fit(item, hint) for item, hint in zip(value, hints, strict=True)]
    return _WRONG if any(item is _WRONG for item in items) else tuple(items)


def _fit_mapping(value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        return _WRONG
    key_hint, item_hint = args or (Any, Any)
    pairs = [(fit(key, key_hint), fit(item, item_hint)) for key, item in value.items()]
    return _WRONG if any(_WRONG in (key, item) for key, item in pairs) else dict(pairs)


def said(hint: Any) -> str:
    """A type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(said(each) for each in args)
    if origin is typing.Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, Sequence):
        return f"a list of {said(args[0]).removeprefix('a ')}s" if args else "a list"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none", None: "none"}
    return words.get(hint, f"a {getattr(hint, '__name__', str(hint))}")
