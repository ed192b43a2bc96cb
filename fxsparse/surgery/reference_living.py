"""The arithmetic in which NaN means "this unit is not there".

Most operators of torch carry NaN as they should. Here are the others: contractions and statistics, element-wise operators whose kernels may
drop NaN (a clamp, a comparison, a fill), and those that put zeros beside what they are given (padding).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from fxsparse.surgery.reference_contractions import CONTRACTIONS, KERNELS, Handler, nothing
from fxsparse.surgery.reference_statistics import STATISTICS

# Element by element, though torch does not tag them as pointwise. `copy` is not here: what it overwrites may have been missing.
_UNTAGGED = """
    _prelu_kernel _to_copy bernoulli clamp_max clamp_min copysign exponential fill floor_divide full_like hardswish hardtanh log_normal
    log_sigmoid_forward masked_fill native_dropout normal ones_like rand_like randn_like rrelu_with_noise threshold uniform where zero
    zeros_like
"""
_ELEMENTWISE = frozenset(_UNTAGGED.split())


class Living:
    """Runs operators, and remembers which entries of masks and whole numbers come from units that are not there."""

    def __init__(self) -> None:
        self.flags = WeakTensorKeyDictionary()

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        nans = [gone for leaf in leaves if (gone := _nans(leaf)) is not None]
        flags = [self.flags[leaf] for leaf in leaves if leaf in self.flags] if len(self.flags) else []
        run = KERNELS.get(func._schema.name, func)
        if not nans and not flags:
            return run(*args, **kwargs)
        handler = _HANDLERS.get(func._schema.name)
        by_mask = _is_masked_fill(func, args)
        if nans and handler is not None and not by_mask:
            return handler(func, args, kwargs)
        if by_mask or _is_elementwise(func):
            return self._elementwise(func, args, kwargs, [*nans, *flags])
        out = run(*args, **kwargs)
        if flags and func.is_view and isinstance(out, Tensor):
            self.flags[out] = func(flags[0], *args[1:], **kwargs)
        return out

    def _elementwise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], missing: list[Tensor]) -> Any:
        """As it is, and NaN again where a kernel has dropped it."""
        gone = missing[0]
        for more in missing[1:]:
            gone = gone | more
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if not isinstance(leaf, Tensor) or not _reaches(gone.shape, leaf.shape):
                continue
            if leaf.is_floating_point() or leaf.is_complex():
                leaf.masked_fill_(gone, nothing(leaf))
            else:
                self.flags[leaf] = gone.expand(leaf.shape)
        return out


def _reaches(shape: torch.Size, wide: torch.Size) -> bool:
    """Whether the one broadcasts to the other."""
    try:
        return tuple(torch.broadcast_shapes(shape, wide)) == tuple(wide)
    except RuntimeError:
        return False


def _nans(x: Tensor) -> Tensor | None:
    if not x.is_floating_point() and not x.is_complex():
        return None
    if not bool(x.sum().isnan()):  # four times as fast as to look at each, and most tensors have none
        return None
    gone = x.isnan()
    return gone if bool(gone.any()) else None


@cache
def _is_elementwise(func: Any) -> bool:
    """In-place and scalar overloads are not all tagged: one tagged overload, in place or not, speaks for all."""
    name = func._schema.name.removeprefix("aten::")
    base = name.removesuffix("_")
    if torch.Tag.pointwise in func.tags or base in _ELEMENTWISE:
        return True
    packet = getattr(torch.ops.aten, base, None)
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def _is_masked_fill(func: Any, args: tuple[Any, ...]) -> bool:
    """y[y < 0] = 0"""
    if func._schema.name not in _PUTS:
        return False
    x, (mask, *more), values = args[:3]
    return not more and mask is not None and mask.dtype == torch.bool and mask.dim() == x.dim() and values.numel() == 1


def _constant_pad(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What is put at the ends of a line that is missing is missing, too."""
    x, pads = args[0], args[1]
    gone = x.isnan()
    for index in range(len(pads) // 2):
        axis = x.dim() - 1 - index
        line = gone.all(dim=axis, keepdim=True) & (gone.shape[axis] > 0)
        one = [0] * (2 * index) + list(pads[2 * index : 2 * index + 2])
        gone = torch.constant_pad_nd(gone, one, False) | line
    out: Tensor = func(*args, **kwargs)
    return out.masked_fill(gone, nothing(out))


def _index_put(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What is written into a line that is missing is missing, too."""
    x, indices = args[:2]
    lines, axis = x.isnan(), 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        for each in range(axis, axis + width) if index is not None else ():
            lines = lines.all(each, keepdim=True)
        axis += width
    out: Tensor = func(*args, **kwargs)
    return out.masked_fill_(lines, nothing(out))


def _index_fill(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What is written into a line that is missing is missing, too."""
    x, axis = args[0], args[1]
    lines = x.isnan().all(axis, keepdim=True) if x.dim() else x.isnan()
    out: Tensor = func(*args, **kwargs)
    return out.masked_fill_(lines, nothing(out))


def _by_channel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Sampling and unfolding put zeros for places outside: in a channel that is missing, these are missing as well."""
    x = args[0]
    out: Tensor = func(*args, **kwargs)
    gone = x.isnan().all(tuple(range(2, x.dim())), keepdim=True).reshape(*x.shape[:2], *[1] * (out.dim() - 2))
    return out.masked_fill(gone.repeat_interleave(out.shape[1] // x.shape[1], dim=1), math.nan)


def _max_unpool(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Zeros stand between the values that are put back: in a channel that is missing, these are missing as well."""
    x, size = args[0], args[2]
    out: Tensor = func(*args, **kwargs)
    return out.masked_fill(x.isnan().all(tuple(range(-len(size), 0)), keepdim=True), math.nan)


def _col2im(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Places that no patch reaches are zero: in a channel that is missing, these are missing as well."""
    x, kernel = args[0], args[2]
    out: Tensor = func(*args, **kwargs)
    return out.masked_fill(x.isnan().unflatten(-2, (-1, math.prod(kernel))).all((-2, -1))[..., None, None], math.nan)


_PUTS = ("aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index_put")
_HANDLERS: Mapping[str, Handler] = {
    **CONTRACTIONS,
    **STATISTICS,
    **dict.fromkeys(_PUTS, _index_put),
    "aten::constant_pad_nd": _constant_pad,
    "aten::grid_sampler_2d": _by_channel,
    "aten::grid_sampler_3d": _by_channel,
    "aten::im2col": _by_channel,
    "aten::col2im": _col2im,
    "aten::max_unpool2d": _max_unpool,
    "aten::max_unpool3d": _max_unpool,
    "aten::index_fill": _index_fill,
    "aten::index_fill_": _index_fill,
}
