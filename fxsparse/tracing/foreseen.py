"""What frequent operators give on meta tensors, known without their kernels.

That is said for plain arguments alone: numbers of one type, row-major where the layout of the result could follow theirs, of shapes that
fit. In all other cases, and to say what is wrong with them, there is the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_Shapes = Sequence[Sequence[int]]  # of the results
_FULL = (torch.float32, torch.float64)
_aten = torch.ops.aten


class _Unforeseen(Exception):
    """The kernel is to be asked."""


def foreseen(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func(*args, **kwargs)` gives, where that is known: new contiguous tensors, or what it writes to. None: ask the kernel."""
    shapes_of = _SHAPES.get(func)
    if shapes_of is None or kwargs:
        return None
    operands = [each for arg in args for each in (arg if type(arg) is list else (arg,)) if isinstance(each, Tensor)]
    dtype = operands[0].dtype
    if dtype not in _FULL or not all(each.dtype is dtype and each.numel() for each in operands):
        return None
    if shapes_of is not _addmm and not all(map(_row_major, operands)):
        return None
    try:
        shapes = shapes_of(*args)
    except _Unforeseen:
        return None
    if func._schema.is_mutable:
        return args[0] if shapes[0] == args[0].shape else None
    made = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    return tuple(made) if len(func._schema.returns) > 1 else made[0]


def _row_major(tensor: Tensor) -> bool:
    """Contiguous, with the strides of a new tensor also where an axis of one element could have any."""
    reached = 1
    for extent, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if stride != reached:
            return False
        reached *= extent
    return True


def _require(fits: bool) -> None:
    if not fits:
        raise _Unforeseen


def _elementwise(*operands: Any) -> _Shapes:
    """Tensors that broadcast, and plain numbers."""
    shapes = [each.shape for each in operands if isinstance(each, Tensor)]
    _require(len(shapes) + sum(type(each) in (int, float) for each in operands) == len(operands))
    try:
        return [torch.broadcast_shapes(*shapes) if len(shapes) > 1 else shapes[0]]
    except RuntimeError:
        raise _Unforeseen from None


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], transposed: bool, *more: Any
) -> _Shapes:
    out, groups, places = weight.shape[0], more[1], x.dim() - 2
    _require(not transposed and weight.dim() == x.dim() and len(stride) == len(padding) == len(dilation) == places > 0)
    _require(x.shape[1] == weight.shape[1] * groups and out % groups == 0 and (bias is None or bias.shape == (out,)))
    _require(min(*stride, *dilation) > 0 <= min(padding))
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    reached = [(n + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for n, kernel, step, pad, gap in sizes]
    _require(min(reached) > 0)
    return [(x.shape[0], out, *reached)]


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None, training: bool, *more: Any
) -> _Shapes:
    channels = x.shape[1:2]
    _require(x.dim() > 1 and (x.numel() > channels[0] if training else mean is not None and variance is not None))
    _require(all(each is None or each.shape == channels for each in (weight, bias, mean, variance)))
    return [x.shape, channels, channels]


def _layer_norm(x: Tensor, sizes: list[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> _Shapes:
    lead, normed = x.shape[: -len(sizes)], x.shape[-len(sizes) :]
    _require(len(sizes) > 0 and list(normed) == sizes and all(each is None or each.shape == normed for each in (weight, bias)))
    statistics = (*lead, *[1] * len(sizes))
    return [x.shape, statistics, statistics]


def _mean(x: Tensor, dims: list[int] | None, keep: bool = False) -> _Shapes:
    _require(bool(dims) and all(-x.dim() <= dim < x.dim() for dim in dims or ()))
    gone = {dim % x.dim() for dim in dims or ()}
    _require(len(gone) == len(dims or ()))
    return [[1 if dim in gone else n for dim, n in enumerate(x.shape) if keep or dim not in gone]]


def _addmm(bias: Tensor, left: Tensor, right: Tensor) -> _Shapes:
    _require(left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0] and bias.shape == right.shape[1:] and _row_major(bias))
    return [(left.shape[0], right.shape[1])]


def _cat(tensors: list[Tensor], dim: int = 0) -> _Shapes:
    first = tensors[0].shape
    _require(-len(first) <= dim < len(first))
    place = dim % len(first)
    _require(len({(each.dim(), *each.shape[:place], *each.shape[place + 1 :]) for each in tensors}) == 1)
    return [(*first[:place], sum(each.shape[place] for each in tensors), *first[place + 1 :])]


def _resized(x: Tensor, sizes: list[int], *more: Any) -> _Shapes:
    _require(x.dim() == 4 and len(sizes) == 2 and min(sizes) > 0)
    return [(*x.shape[:2], *sizes)]


ELEMENTWISE = frozenset([
    *(_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.add_.Tensor, _aten.mul_.Tensor),
    *(each.default for packet in ("relu", "sigmoid", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh")
      for each in (getattr(_aten, packet), getattr(_aten, f"{packet}_"))),
])  # fmt: skip
_SHAPES: dict[Any, Callable[..., _Shapes]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.mean.dim: _mean,
    _aten.addmm.default: _addmm,
    _aten.cat.default: _cat,
    _aten.upsample_bilinear2d.default: _resized,
}
