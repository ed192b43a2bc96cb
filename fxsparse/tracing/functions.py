"""`torch.autograd.Function`s: one node each, as what stands in their backward is not what autograd makes of their forward.

A straight-through estimator that was traced through would round, and have no gradient. And `torch.autograd.Variable`, which older code
wraps its tensors in, and which no mode is told of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Applied:
    """`cls.apply` as the target of a node."""

    def __init__(self, cls: type) -> None:
        self.cls: Any = cls
        self.__name__, self.__qualname__, self.__module__ = cls.__name__, cls.__qualname__, cls.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.cls.apply(*args, **kwargs)

    def __repr__(self) -> str:  # in reasons
        return f"{self.__qualname__}.apply"

    def __deepcopy__(self, memo: dict[int, Any]) -> Applied:
        return self


applied = functools.cache(Applied)


@contextmanager
def noticed(notice: Callable[[Callable[..., Any], type, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """While this is open, `notice(apply, cls, args, kwargs)` stands in for `cls.apply(*args, **kwargs)`."""
    original: Any = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        return notice(functools.partial(original.__func__, cls), cls, args, kwargs)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]


@contextmanager
def old_variables() -> Iterator[None]:
    """While this is open, `Variable(x)` is a call of torch that a mode sees: what it gives is x without its history."""

    def new(cls: type, data: Any = None, requires_grad: bool = False, volatile: bool = False) -> Any:
        made = torch.empty(0) if data is None else torch.detach(data)
        return made.requires_grad_() if requires_grad else made

    variable: Any = torch.autograd.Variable
    variable.__new__ = new
    try:
        yield
    finally:
        del variable.__new__
