"""Values for regrown coordinates that are not taken from the journal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fxsparse.axes.factors import Atoms
from fxsparse.errors import PlanError
from fxsparse.surgery.journal import Init, grid
from fxsparse.surgery.silence import zeros

if TYPE_CHECKING:
    from fxsparse.network import Network


def initialised(before: Network, after: Network, key: str, values: Tensor, init: Init) -> Tensor:
    """`values` (in the shape of `after`) with the coordinates that `before` lacks set anew."""
    if init not in ("zero", "fresh"):
        raise PlanError(f"init is 'journal', 'zero' or 'fresh', not {init!r}")
    if not values.dtype.is_floating_point:
        return values
    grown = _grown(before, after, key)
    values = values.clone() if grown else values
    if init == "fresh" or key not in before.journal.tensors:  # without a memory, what is not silent must not be zero: it would never learn
        for axis, positions in grown.items():
            new = grid({axis: positions}, values.shape, values.device)
            values[new] = _fresh(values, values[new].shape)
    if init == "zero":
        for axis, positions in grown.items():
            silent = _silent(before, after, key, axis, positions)
            values[grid({axis: silent}, values.shape, values.device)] = 0
    return values


def _grown(before: Network, after: Network, key: str) -> dict[int, Atoms]:
    """axis -> positions in the new tensor of coordinates that were not in the old one."""
    axes = before.origin.structure.reading.tensors[key]
    found = {}
    for i, axis in enumerate(axes):
        old, new = before.prediction.mask(axis), after.prediction.mask(axis)
        if (new & ~old).any():
            found[i] = np.flatnonzero((new & ~old)[new])
    return found


def _silent(before: Network, after: Network, key: str, axis: int, grown: Atoms) -> Atoms:
    """The grown coordinates of this axis that must be zero, so that a grown unit says nothing."""
    structure = before.origin.structure
    silent: set[int] = set()
    mask = after.prediction.mask(structure.reading.tensors[key][axis])
    position = np.cumsum(mask) - 1
    wanted = set(grown.tolist())
    for name, group in structure.groups.items():
        new_units = set(after.living[name]) - set(before.living[name])
        if not new_units or not any((member.tensor, member.axis) == (key, axis) for member in group.members):
            continue
        for unit, coordinates in zeros(before, name).get((key, axis), {}).items():
            if unit in new_units:
                silent.update(int(position[c]) for c in coordinates if mask[c] and int(position[c]) in wanted)
    return np.array(sorted(silent), dtype=np.int64)


def _fresh(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Uniform in +-1/sqrt(fan-in) for weights; the mean of the tensor for vectors (scales stay scales, shifts stay shifts)."""
    if tensor.dim() < 2:
        return tensor.float().mean().to(tensor.dtype).expand(shape)
    bound = 1.0 / math.sqrt(max(1, math.prod(tensor.shape[1:])))
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device).uniform_(-bound, bound)
