"""`x.new_full(sizes, stride)` where `stride` is a tensor: torch asks it for its number, which a tensor on meta does not have. An empty
tensor that is filled with it is the same, and the graph follows the tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def _new_full(self: Tensor, size: Sequence[int], fill_value: Tensor, **more: Any) -> Tensor:
    return self.new_empty(size, **more).fill_(fill_value.detach())


def _full(size: Sequence[int], fill_value: Tensor, *, dtype: torch.dtype | None = None, **more: Any) -> Tensor:
    dtype = dtype or (torch.get_default_dtype() if fill_value.is_floating_point() else fill_value.dtype)
    return torch.empty(size, dtype=dtype, **more).fill_(fill_value.detach())


def _full_like(input: Tensor, fill_value: Tensor, **more: Any) -> Tensor:
    return torch.empty_like(input, **more).fill_(fill_value.detach())


# torch's function -> where the number stands among its arguments, and what does the same with a tensor
_WAYS: dict[Any, tuple[int, Callable[..., Tensor]]] = {
    Tensor.new_full: (2, _new_full),
    torch.full: (1, _full),
    torch.full_like: (1, _full_like),
}


def filling(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """What to call in the function's place, if a tensor stands where it wants a number."""
    position, way = _WAYS.get(function, (0, None))
    value = args[position] if len(args) > position else kwargs.get("fill_value")
    return way if isinstance(value, Tensor) else None
