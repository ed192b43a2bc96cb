"""Reductions and norms over an axis that lacks some of its units: over the living alone.

What is missing stays missing in a result that keeps the axis; a reduction is missing where nothing is left to reduce.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fxsparse.surgery.reference_contractions import Handler, nothing


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, defaults included."""
    declared = func._schema.arguments
    values = {argument.name: argument.default_value for argument in declared if argument.has_default_value()}
    return values | dict(zip((argument.name for argument in declared), args, strict=False)) | kwargs


def _dims(given: dict[str, Any], x: Tensor) -> tuple[int, ...]:
    dim = given.get("dim")
    listed = [dim] if isinstance(dim, int) else list(dim or ())
    return tuple(listed) if listed else tuple(range(x.dim()))


def _reduction(neutral: float) -> Handler:
    """The operator itself, with its neutral element in place of what is missing."""

    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = _bound(func, args, kwargs)
        x = args[0]
        dead = x.isnan()
        value = math.inf if isinstance(given.get("ord"), (int, float)) and given["ord"] < 0 else neutral
        out = func(x.masked_fill(dead, value), *args[1:], **kwargs)
        dims = _dims(given, x)
        gone = dead.all(dims, keepdim=bool(given.get("keepdim"))) if dims else dead
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()):
                leaf.masked_fill_(gone.reshape(leaf.shape), nothing(leaf))
        return out

    return run


def _moments(x: Tensor, dims: tuple[int, ...], correction: float = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance over the living, with the axes kept; NaN where there are none."""
    alive = ~x.isnan()
    count = alive.sum(dims, keepdim=True)
    mean = torch.where(alive, x, 0.0).sum(dims, keepdim=True) / count
    squares = torch.where(alive, (x - mean) ** 2, 0.0).sum(dims, keepdim=True)
    return mean, (squares / (count - correction).clamp(min=0)).masked_fill_(count == 0, math.nan)


def _mean(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    given = _bound(func, args, kwargs)
    dims = _dims(given, args[0])
    if not dims:
        return args[0].clone()  # type: ignore[no-any-return]
    mean, _ = _moments(args[0], dims)
    return mean if given.get("keepdim") else _squeezed(mean, dims)


def _variance(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """var, std, var_mean and std_mean."""
    given = _bound(func, args, kwargs)
    dims = _dims(given, args[0])
    correction = given.get("correction")
    if correction is None:
        correction = 1 if given.get("unbiased", True) else 0
    mean, variance = _moments(args[0], dims, float(correction))
    name = func._schema.name.removeprefix("aten::")
    spread = variance.sqrt() if name.startswith("std") else variance
    if not given.get("keepdim"):
        spread, mean = _squeezed(spread, dims), _squeezed(mean, dims)
    return (spread, mean) if name.endswith("_mean") else spread


def _squeezed(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.squeeze(dims)


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    x, shape, weight, bias, eps = args
    mean, variance = _moments(x, tuple(range(x.dim() - len(shape), x.dim())))
    scale = torch.rsqrt(variance + eps)
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), mean, scale


def _group_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias, n, c, _, groups, eps = args
    grouped = x.reshape(n, groups, -1)
    mean, variance = _moments(grouped, (2,))
    scale = torch.rsqrt(variance + eps)
    out = ((grouped - mean) * scale).reshape(x.shape)
    line = [1, c, *[1] * (x.dim() - 2)]
    out = out if weight is None else out * weight.reshape(line)
    return (out if bias is None else out + bias.reshape(line)), mean.reshape(n, groups), scale.reshape(n, groups)


def _rms_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    x, shape, weight, eps = (*args, None, None)[:4]
    mean, _ = _moments(x * x, tuple(range(x.dim() - len(shape), x.dim())))
    scale = torch.rsqrt(mean + (torch.finfo(x.dtype).eps if eps is None else eps))
    out = x * scale
    return (out if weight is None else out * weight), scale


def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Channel by channel. With the statistics of the batch, of a weight that is standardised say, over what is left of it."""
    given = _bound(func, args, kwargs)
    if not given["training"]:
        return func(*args, **kwargs)
    x = given["input"]
    mean, variance = _moments(x, (0, *range(2, x.dim())))
    scale = torch.rsqrt(variance + given["eps"])
    line = [-1, *[1] * (x.dim() - 2)]
    out = (x - mean) * scale
    out = out if given["weight"] is None else out * given["weight"].reshape(line)
    return (out if given["bias"] is None else out + given["bias"].reshape(line)), mean.flatten(), scale.flatten()


def _weight_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    given = _bound(func, args, kwargs)
    v = given["v"]
    dims = tuple(i for i in range(v.dim()) if i != given["dim"] % v.dim())
    norm = v.square().nansum(dims, keepdim=True).sqrt()
    return v * (given["g"] / norm), norm


def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    dead = args[0].isnan()
    out: Tensor = func(args[0].masked_fill(dead, -math.inf), *args[1:], **kwargs)
    return out.masked_fill(dead, math.nan)


_GREATEST, _LEAST = _reduction(-math.inf), _reduction(math.inf)
STATISTICS: Mapping[str, Handler] = {
    "aten::_fused_rms_norm": _rms_norm,
    "aten::_log_softmax": _softmax,
    "aten::_safe_softmax": _softmax,
    "aten::_softmax": _softmax,
    "aten::_weight_norm_interface": _weight_norm,
    "aten::amax": _GREATEST,
    "aten::amin": _LEAST,
    "aten::argmax": _GREATEST,
    "aten::argmin": _LEAST,
    "aten::linalg_vector_norm": _reduction(0.0),
    "aten::logsumexp": _GREATEST,
    "aten::max": _GREATEST,
    "aten::mean": _mean,
    "aten::min": _LEAST,
    "aten::native_batch_norm": _batch_norm,
    "aten::native_group_norm": _group_norm,
    "aten::native_layer_norm": _layer_norm,
    "aten::norm": _reduction(0.0),
    "aten::prod": _reduction(1.0),
    "aten::std": _variance,
    "aten::std_mean": _variance,
    "aten::sum": _reduction(0.0),
    "aten::var": _variance,
    "aten::var_mean": _variance,
}
