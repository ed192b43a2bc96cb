"""What meta kernels gave before: the same operator on the same shapes gives the same shapes.

A meta kernel is mostly Python, and takes up to ten milliseconds (hardswish). Networks repeat their blocks, so that most calls were
seen already, and what frequent operators give is foreseen. Only operators of torch itself are remembered that do not look into their
arguments; of those that write, the element-wise ones, which return what they wrote to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from fxsparse.tracing.foreseen import ELEMENTWISE, foreseen

_PLAIN = (Tensor, torch.nn.Parameter)
_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]
_Result = _Layout | list[_Layout | None] | None  # of one tensor, of several (None: no tensor there), or nothing to remember


class Shapes:
    """The memory of one recording, or of several in a row."""

    def __init__(self) -> None:
        self._kinds: dict[Any, str] = {}
        self._known: dict[Hashable, _Result] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`func(*args, **kwargs)` on meta tensors, from memory where that is possible."""
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind(func)
        if not kind:
            return func(*args, **kwargs)
        try:
            key = (func, torch.get_default_dtype(), _key(args), _key(tuple(kwargs.items())))
            known = self._known.get(key)
        except TypeError:  # an argument that cannot be part of a key
            return func(*args, **kwargs)
        if known is not None:
            if kind == "writes":
                return args[0]
            return _make(known) if isinstance(known, tuple) else tuple([None if each is None else _make(each) for each in known])
        out = foreseen(func, args, kwargs)
        if out is None:
            out = (_grouped_mm if func is _aten._grouped_mm.default else func)(*args, **kwargs)
        if kind == "makes":
            self._known[key] = _result(out, args)
        elif args and out is args[0]:
            self._known[key] = _layout(out)
        return out


_memory: ContextVar[Shapes | None] = ContextVar("fxsparse_shapes", default=None)


def shapes() -> Shapes:
    """The memory that is open, or a new one."""
    return _memory.get() or Shapes()


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """While this is open, all recordings share one memory."""
    token = _memory.set(shapes())
    try:
        yield
    finally:
        _memory.reset(token)


def _kind(func: Any) -> str:
    """`makes`: the layout of new results follows from the layouts of the arguments; `writes`: the first argument is the result."""
    unsteady = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view)
    if func.namespace != "aten" or func.is_view or any(tag in func.tags for tag in unsteady):
        return ""
    if not func._schema.is_mutable:
        return "makes"
    written = [argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments]
    pointwise = torch.Tag.pointwise in func.tags or func in ELEMENTWISE
    return "writes" if pointwise and written[0] and not any(written[1:]) else ""


def _key(value: Any) -> Hashable:
    """Something that is equal for arguments that give results of equal layout."""
    if isinstance(value, Tensor):
        if type(value) not in _PLAIN or not value.is_meta or value.layout is not torch.strided:
            raise TypeError("a tensor whose layout does not say everything")
        return value.shape, value.stride(), value.dtype
    if type(value) in (tuple, list):
        return tuple([_key(item) for item in value])
    return type(value), value


_aten = torch.ops.aten


def _grouped_mm(rows: Tensor, experts: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Torch's own meta kernel wants bfloat16, and its other ones do not."""
    if (rows.dim(), experts.dim(), rows.dtype) == (2, 3, experts.dtype) and not kwargs.get("out_dtype"):
        return rows.new_empty(rows.shape[0], experts.shape[2])
    return _aten._grouped_mm.default(rows, experts, *args, **kwargs)


def _layout(tensor: Tensor) -> _Layout:
    return tensor.shape, tensor.stride(), tensor.dtype


def _result(out: Any, args: tuple[Any, ...]) -> _Result:
    single = isinstance(out, Tensor)
    if not single and type(out) is not tuple:
        return None
    layouts: list[_Layout | None] = []
    for each in (out,) if single else out:
        if each is None:
            layouts.append(None)
            continue
        if type(each) is not Tensor or not each.is_meta or each.dtype.is_complex or any(each is arg for arg in args):
            return None
        layouts.append(_layout(each))
    return layouts[0] if single else layouts


def _make(layout: _Layout) -> Tensor:
    shape, stride, dtype = layout
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
