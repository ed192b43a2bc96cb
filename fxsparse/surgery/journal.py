"""What was removed, remembered: the last dense value of every tensor that has lost something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fxsparse.axes.factors import Atoms

Init = Literal["journal", "zero", "fresh"]
Places = dict[int, Atoms]  # axis -> surviving coordinates; axes that lost nothing are not there


@dataclass(frozen=True, slots=True)
class Journal:
    """Dense tensors by name, and dense optimizer state by parameter name and state name. Never changed in place."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def take(tensor: Tensor, places: Places) -> Tensor:
    """The sub-tensor at these coordinates, always a new tensor."""
    result = tensor
    for axis, index in places.items():
        result = result.index_select(axis, torch.from_numpy(np.ascontiguousarray(index)).to(tensor.device))
    return result.clone() if result is tensor else result


def put(dense: Tensor, places: Places, values: Tensor) -> Tensor:
    """A dense tensor with `values` written at these coordinates; `dense` itself stays as it is."""
    if not places:
        return values.clone()
    result = dense.clone()
    result[grid(places, dense.shape, dense.device)] = values
    return result


def grid(places: Places, shape: torch.Size, device: torch.device) -> tuple[Tensor, ...]:
    """Open index arrays, one for each axis, that together select a sub-tensor."""
    index = []
    for axis, extent in enumerate(shape):
        chosen = places.get(axis)
        line = torch.arange(extent) if chosen is None else torch.from_numpy(np.ascontiguousarray(chosen))
        index.append(line.to(device).reshape([-1 if i == axis else 1 for i in range(len(shape))]))
    return tuple(index)


def convert(tensor: Tensor, before: Places, after: Places, dense: Tensor | None, shape: torch.Size) -> tuple[Tensor, Tensor | None]:
    """A tensor at the coordinates `after`, and what to remember: the dense value, or None while nothing is missing."""
    if not before and not after:
        return tensor.detach().clone(), None
    full = put(dense if dense is not None else torch.zeros(shape, dtype=tensor.dtype, device=tensor.device), before, tensor.detach())
    return take(full, after), full if after else None
