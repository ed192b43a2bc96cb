"""Contractions over operands that lack some of their units: terms with a missing factor are left out.

A result is missing (NaN) where it had terms and none is left. The terms are counted with the operator itself, on zeros and ones, so that
groups, strides, paddings and transpositions need no second description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def nothing(tensor: Tensor) -> float | complex:
    """What stands in this tensor for what is not there. A complex NaN of torch's is 0 in its imaginary part, which `view_as_real` shows."""
    return complex(math.nan, math.nan) if tensor.is_complex() else math.nan


def contract(op: Callable[..., Tensor], *operands: Tensor, windows: bool = False) -> Tensor:
    """`op`, linear in each operand, over the living terms. `windows`: axes from the third on are places, some of which may have no term."""
    dead = [x.isnan() for x in operands]
    total = op(*(x.masked_fill(gone, 0.0) for x, gone in zip(operands, dead, strict=True)))
    lacking = op(*((~gone).double() for gone in dead)) < 0.5
    if not bool(lacking.any()):
        return total
    possible = op(*(torch.ones_like(gone, dtype=torch.float64) for gone in dead)) > 0.5
    missing = lacking & possible
    if windows and total.dim() > 2:
        # A place that sees only padding, or falls between the strides of a transposed convolution, is as dead as the rest of its channel.
        places = tuple(range(2, total.dim()))
        missing |= (missing | ~possible).all(places, keepdim=True) & missing.any(dim=2, keepdim=True).any(places, keepdim=True)
    return total.masked_fill_(missing, nothing(total))


def _plain(op: Callable[..., Tensor], operands: int = 2) -> Handler:
    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        rest = args[operands:]
        return contract(lambda *x: op(*x, *rest, **kwargs), *args[:operands])

    return run


def _added(op: Callable[..., Tensor]) -> Handler:
    """beta * self + alpha * op(a, b), also in place."""

    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        own: Tensor = args[0]
        beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
        made: Tensor = contract(op, args[1], args[2]) * alpha
        if beta != 0:
            made = made + beta * own
        if func._schema.name.endswith("_"):
            return own.copy_(made)
        return made

    return run


def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, weight, bias, *rest = args
    made: Tensor = contract(lambda a, b: func(a, b, None, *rest, **kwargs), x, weight, windows=True)
    if bias is not None:
        made += bias.reshape(-1, *[1] * (made.dim() - 2))
    return made


def _convolution_tbc(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, weight, bias, *rest = args
    made: Tensor = contract(lambda a, b: func(a, b, torch.zeros_like(bias), *rest, **kwargs), x, weight)
    return made.add_(bias)


def _embedding_bag(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A bag may be empty; a column that no row has is missing all the same."""
    weight = args[0]
    dead = weight.isnan()
    out = func(weight.masked_fill(dead, 0.0), *args[1:], **kwargs)
    out[0].masked_fill_(dead.all(dim=0), math.nan)
    return out


def _distances(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A coordinate that is missing in all rows of one side is no part of a distance."""
    first, second, *rest = args
    gone = first.isnan().all(-2, keepdim=True) | second.isnan().all(-2, keepdim=True)
    made: Tensor = func(first.masked_fill(gone, 0.0), second.masked_fill(gone, 0.0), *rest, **kwargs)
    return made.masked_fill(gone.all(-1, keepdim=True), math.nan)


def grouped_product(rows: Tensor, experts: Tensor, offsets: Tensor, *rest: Any) -> Tensor:
    """Rows times the matrix that they are dealt to."""
    made = rows.new_zeros(len(rows), experts.shape[-1])
    start = 0
    for expert, end in zip(experts, offsets.tolist(), strict=True):
        made[start:end] = rows[start:end] @ expert
        start = end
    return made


KERNELS: Mapping[str, Callable[..., Any]] = {"aten::_grouped_mm": grouped_product}  # those of float64 that torch does not have

CONTRACTIONS: Mapping[str, Handler] = {
    "aten::_cdist_forward": _distances,
    "aten::_embedding_bag": _embedding_bag,
    "aten::_embedding_bag_forward_only": _embedding_bag,
    "aten::_euclidean_dist": _distances,
    "aten::_grouped_mm": _plain(grouped_product),
    "aten::_trilinear": _plain(aten._trilinear, operands=3),
    "aten::addbmm": _added(lambda a, b: aten.bmm(a, b).sum(0)),
    "aten::addbmm_": _added(lambda a, b: aten.bmm(a, b).sum(0)),
    "aten::addmm": _added(aten.mm),
    "aten::addmm_": _added(aten.mm),
    "aten::addmv": _added(aten.mv),
    "aten::addmv_": _added(aten.mv),
    "aten::baddbmm": _added(aten.bmm),
    "aten::baddbmm_": _added(aten.bmm),
    "aten::bmm": _plain(aten.bmm),
    "aten::conv_tbc": _convolution_tbc,
    "aten::convolution": _convolution,
    "aten::convolution_overrideable": _convolution,
    "aten::dot": _plain(aten.dot),
    "aten::mm": _plain(aten.mm),
    "aten::mv": _plain(aten.mv),
    "aten::vdot": _plain(aten.vdot),
    "transformers::grouped_mm_fallback": _plain(grouped_product),
}
