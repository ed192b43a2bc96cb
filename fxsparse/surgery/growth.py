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

if TYPE_CHECKING:
    from fxsparse.network import Network


def initialised(before: Network, after: Network, key: str, values: Tensor, init: Init) -> Tensor:
    """`values` (in the shape of `after`) with the coordinates that `before` lacks set anew."""
    if init not in ("zero", "fresh"):
        raise PlanError(f"init is 'journal', 'zero' or 'fresh', not {init!r}")
    for axis, grown in _grown(before, after, key).items():
        new = grid({axis: grown}, values.shape, values.device)
        if not values.dtype.is_floating_point:
            continue
        values = values.clone()
        if init == "fresh":
            values[new] = _fresh(values, values[new].shape)
        else:
            silent = _silent(before, after, key, axis, grown)
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
    """The grown coordinates of this axis that must be zero, so that a grown unit says nothing: where its group is consumed; and where
    nothing consumes it, where its first producer makes it."""
    structure = before.origin.structure
    silent: set[int] = set()
    mask = after.prediction.mask(structure.reading.tensors[key][axis])
    position = np.cumsum(mask) - 1
    wanted = set(grown.tolist())
    for name, group in structure.groups.items():
        members = [m for m in group.members if (m.tensor, m.axis) == (key, axis)]
        new_units = set(after.living[name]) - set(before.living[name])
        if not members or not new_units:
            continue
        consumed = any(m.role == "consumes" for m in group.members)
        first_module = group.members[0].tensor.rpartition(".")[0]
        chosen = members[0].role == "consumes" if consumed else key.rpartition(".")[0] == first_module
        if over_statistics(before, group.name):
            raise PlanError(
                f"group {name!r} is normalised over its units: growing one changes the statistics of all, "
                "so init='zero' cannot keep the function; use 'journal' or 'fresh'"
            )
        if chosen:
            for coordinate, unit in structure.coordinates(key, axis, name):
                if unit in new_units and mask[coordinate] and int(position[coordinate]) in wanted:
                    silent.add(int(position[coordinate]))
    return np.array(sorted(silent), dtype=np.int64)


def over_statistics(network: Network, name: str) -> bool:
    structure = network.origin.structure
    statistics = structure.reading.book.statistics
    classes = set(structure.classes[name].tolist())
    for uid in statistics:
        factor = structure.reading.algebra.factors[uid]
        if factor.atoms is not None:
            generators = structure.solution.generators(structure.factor_classes(factor))
            if classes & set(generators.tolist()):
                return True
    return False


def _fresh(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Uniform in +-1/sqrt(fan-in) for weights; the mean of the tensor for vectors (scales stay scales, shifts stay shifts)."""
    if tensor.dim() < 2:
        return tensor.float().mean().to(tensor.dtype).expand(shape)
    bound = 1.0 / math.sqrt(max(1, math.prod(tensor.shape[1:])))
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device).uniform_(-bound, bound)
