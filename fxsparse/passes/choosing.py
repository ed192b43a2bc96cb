"""Which groups a pass may touch: by name patterns, of groups or of the modules and tensors in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from fxsparse.channels.coordinates import Coordinates
from fxsparse.channels.groups import Group
from fxsparse.errors import PassError, nearest
from fxsparse.network import Network


def matches(group: Group, pattern: str) -> bool:
    """Whether a pattern names the group, or something that its units are made in."""
    produced = [m.tensor for m in group.members if m.role == "produces"]
    names = [group.name, *produced, *(tensor.rpartition(".")[0] for tensor in produced)]
    return any(fnmatchcase(name, pattern) for name in names)


def chosen(network: Network, only: Sequence[str], protect: Sequence[str]) -> tuple[list[Group], dict[str, str]]:
    """The groups that may lose units, and for the others why not. A pattern that names nothing is an error."""
    for pattern in (*only, *protect):
        if not any(matches(group, pattern) for group in network.groups):
            raise PassError(f"the pattern {pattern!r} names no group{nearest(pattern, [g.name for g in network.groups])}")
    free: list[Group] = []
    left: dict[str, str] = {}
    for group in network.groups:
        if not group.prunable:
            left[group.name] = group.reason
        elif any(matches(group, pattern) for pattern in protect):
            left[group.name] = "protected by name"
        elif only and not any(matches(group, pattern) for pattern in only):
            left[group.name] = "not among those that are asked for"
        else:
            free.append(group)
    return free, left


def aligned_steps(network: Network, groups: Sequence[Group], align: int) -> dict[str, int]:
    """In which steps each group may shrink so that the axes it is on lose multiples of `align`."""
    if align == 1:
        return {}
    places = Coordinates(network.origin.structure).places
    steps: dict[str, int] = {}
    for group in groups:
        sizes = [int(np.count_nonzero(place.units == group.units[0])) for place in places[group.name]]
        each = math.gcd(*sizes) if sizes else 1
        steps[group.name] = align // math.gcd(align, each)
    return steps
