"""What was removed, remembered: the last dense value of every tensor that has lost something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fxsparse.axes.factors import Atoms
from fxsparse.errors import PlanError

Init = Literal["journal", "zero", "fresh"]
Places = dict[int, Atoms]  # axis -> surviving coordinates; axes that lost nothing are not there
SLAB = 1 << 20  # numbers


@dataclass(frozen=True, slots=True)
class Journal:
    """Dense tensors by name, those of optimizers and averaged copies, and masks. Never changed in place."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    followers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    init: Init = "journal"  # how the network that holds this journal was made


def take(tensor: Tensor, places: Places) -> Tensor:
    """The sub-tensor at these coordinates, always a new tensor. Made slab by slab: no second tensor of nearly its size beside it."""
    if not places:
        return tensor.clone()
    (first, chosen), *rest = [(axis, torch.from_numpy(np.ascontiguousarray(index)).to(tensor.device)) for axis, index in places.items()]
    shape = [len(places[axis]) if axis in places else extent for axis, extent in enumerate(tensor.shape)]
    row = tensor.numel() // max(1, tensor.shape[first])
    slabs = chosen.split(max(1, SLAB // max(1, row)))
    made = tensor.new_empty(shape) if len(slabs) > 1 else None
    start = 0
    for slab in slabs:
        piece = tensor.index_select(first, slab)
        for axis, index in rest:
            piece = piece.index_select(axis, index)
        if made is None:
            return piece
        made.narrow(first, start, len(slab)).copy_(piece)
        start += len(slab)
    return tensor.new_empty(shape) if made is None else made


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
    if dense is None:
        if any(not np.isin(after.get(axis, np.arange(shape[axis])), index).all() for axis, index in before.items()):
            raise PlanError(
                "the values of the removed units are not remembered; regrow with init='zero' or 'fresh', or save with journal=True"
            )
        dense = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device) if before else tensor  # `put` reads it where it is not whole
    full = put(dense.to(tensor.device, tensor.dtype), before, tensor.detach())
    return (take(full, after), full) if after else (full, None)
