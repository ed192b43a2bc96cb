"""Units of a group are interchangeable: swapping any two of them leaves the function as it is."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import fxsparse

Coordinates = dict[str, dict[int, list[int]]]  # state_dict key -> axis -> indices


def check_exchange(module: nn.Module, args: tuple[Any, ...], seed: int, kwargs: Mapping[str, Any] | None = None, most: int = 8) -> int:
    """Swap two random units in up to `most` groups, one group after another, and compare in float64; answers how many groups were tried."""
    rng = random.Random(seed)
    dense = copy.deepcopy(module).double()
    inputs = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, dict(kwargs or {})))
    network = fxsparse.trace(dense, *inputs)
    expected = _run(dense, inputs)
    groups = [group for group in network.groups if group.prunable and len(group.units) > 1]
    tried = 0
    for group in rng.sample(groups, min(len(groups), most)):
        first, second = rng.sample(group.units, 2)
        try:
            one, other = coordinates(network, group.name, first), coordinates(network, group.name, second)
        except fxsparse.PlanError:  # without this unit an axis would be empty
            continue
        tried += 1
        for got, wanted in zip(_run(swapped(dense, one, other), inputs), expected, strict=True):
            error = (got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)
            assert error < 1e-9, f"swapping units {first} and {second} of {group.name!r} changes the function by {error:.1e}"
    return tried


def coordinates(network: fxsparse.Network, group: str, unit: int) -> Coordinates:
    """What a unit consists of: what is no longer kept without it."""
    kept = network.shrink({group: [other for other in network.group(group).units if other != unit]}).kept
    found: Coordinates = {}
    for key, tensor in network.module.state_dict().items():
        for axis, indices in kept[key].items():
            gone = sorted(set(range(tensor.shape[axis])) - set(indices))
            if gone:
                found.setdefault(key, {})[axis] = gone
    return found


def swapped(module: nn.Module, one: Coordinates, other: Coordinates) -> nn.Module:
    """A copy of a module in which the coordinates of two units have changed places."""
    assert {key: list(axes) for key, axes in one.items()} == {key: list(axes) for key, axes in other.items()}, (
        "the units touch different axes"
    )
    result = copy.deepcopy(module)
    state = result.state_dict()
    done: set[int] = set()
    for key, axes in one.items():
        if state[key].data_ptr() in done:  # a tied tensor has several keys
            continue
        done.add(state[key].data_ptr())
        for axis, indices in axes.items():
            order = torch.arange(state[key].shape[axis])
            order[indices], order[other[key][axis]] = torch.tensor(other[key][axis]), torch.tensor(indices)
            state[key].copy_(state[key].index_select(axis, order))
    return result


def _run(module: nn.Module, inputs: Any) -> list[Tensor]:
    args, kwargs = inputs
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]
