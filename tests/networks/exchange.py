"""Units of a group are interchangeable: swapping any two of them leaves the function as it is."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import fxsparse

Place = tuple[str, int, int]  # name of a parameter or buffer, axis, index
Owners = frozenset[tuple[str, int]]  # groups and units


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
            pairs = counterparts(network, group.name, first, second)
        except fxsparse.PlanError:  # without one of them an axis would be empty
            continue
        if pairs is None:
            continue
        tried += 1
        for got, wanted in zip(_run(swapped(dense, pairs), inputs), expected, strict=True):
            error = (got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)
            assert error < 1e-9, f"swapping units {first} and {second} of {group.name!r} changes the function by {error:.1e}"
    return tried


def coordinates(network: fxsparse.Network, group: str, unit: int) -> set[Place]:
    """What a unit consists of: what is no longer kept without it."""
    others = tuple(other for other in network.living[group] if other != unit)
    narrow = replace(network, living={**network.living, group: others})  # as after a shrink, whose module nobody needs here
    return {
        (key, axis, i)
        for key, tensor in network.tensors().items()
        for axis, left in narrow.places(key).items()
        for i in set(range(tensor.shape[axis])) - set(left.tolist())
    }


def counterparts(network: fxsparse.Network, group: str, first: int, second: int) -> list[tuple[Place, Place]] | None:
    """Pairs of places that change hands. A coordinate of a head belongs to a head and to one of the head's dimensions: of several
    coordinates on one axis, those belong together that share the units of all other groups. None where these others are protected:
    their units cannot be told apart by removing them."""
    sides = [coordinates(network, group, unit) for unit in (first, second)]
    axes = {(key, axis) for key, axis, _ in sides[0]}
    assert axes == {(key, axis) for key, axis, _ in sides[1]}, f"units {first} and {second} of {group!r} touch different axes"
    owners: dict[Place, Owners] = {}
    if len(sides[0]) > len(axes):
        protected = [other for other in network.groups if not other.prunable and len(other.units) > 1]
        if any(axes & {(member.tensor, member.axis) for member in other.members} for other in protected):
            return None
        owners = _owners(network, group, axes)
    ordered = [sorted(side, key=lambda place: (*place[:2], sorted(owners.get(place, Owners())), place[2])) for side in sides]
    return list(zip(*ordered, strict=True))


def _owners(network: fxsparse.Network, group: str, axes: set[tuple[str, int]]) -> dict[Place, Owners]:
    """For each place on these axes, the units of other groups that it belongs to."""
    owners: dict[Place, Owners] = {}
    for other in network.groups:
        if other.name != group and other.prunable and axes & {(member.tensor, member.axis) for member in other.members}:
            for unit in other.units if len(other.units) > 1 else ():
                for place in coordinates(network, other.name, unit):
                    owners[place] = owners.get(place, Owners()) | {(other.name, unit)}
    return owners


def swapped(module: nn.Module, pairs: list[tuple[Place, Place]]) -> nn.Module:
    """A copy of a module in which the places of each pair have changed hands."""
    result = copy.deepcopy(module)
    state = {**dict(result.named_parameters(remove_duplicate=False)), **dict(result.named_buffers(remove_duplicate=False))}
    orders: dict[tuple[str, int], Tensor] = {}
    for (key, axis, i), (_, _, j) in pairs:
        order = orders.setdefault((key, axis), torch.arange(state[key].shape[axis]))
        order[i], order[j] = j, i
    done: dict[int, str] = {}
    for (key, axis), order in orders.items():
        if done.setdefault(state[key].data_ptr(), key) == key:  # a tied tensor has several keys
            state[key].data.copy_(state[key].data.index_select(axis, order))
    return result


def _run(module: nn.Module, inputs: Any) -> list[Tensor]:
    args, kwargs = inputs
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]
