"""Groups that no surgery could change: sizes written in Python code that could not be traced, or in autograd functions.

Only groups that meet such code are tried, each with one unit less, on meta tensors: all at once, and where that fails, by halves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxsparse.axes.factors import Factor
from fxsparse.channels.groups import Structure
from fxsparse.errors import PlanError
from fxsparse.surgery.build import as_new_parameter, build
from fxsparse.surgery.plan import predict
from fxsparse.tracing.functions import Applied
from fxsparse.tracing.leaves import is_leaf
from fxsparse.tracing.traced_module import TracedModule
from fxsparse.tracing.walk import named_modules


def feasible(skeleton: nn.Module, structure: Structure, inputs: tuple[Any, dict[str, Any]]) -> Structure:
    """The structure with those groups protected that cannot lose a unit, each with the reason."""
    names = _suspects(skeleton, structure)
    impossible = dict(_search(skeleton, structure, inputs, names)) if names else {}
    if not impossible:
        return structure
    groups = {
        name: replace(each, prunable=False, reason=impossible[name]) if name in impossible else each
        for name, each in structure.groups.items()
    }
    return replace(structure, groups=groups)


def _suspects(skeleton: nn.Module, structure: Structure) -> list[str]:
    """Prunable groups that meet a call of untraced Python code; torch's own modules are resized wherever they stand."""
    leaves = {name for name, module in named_modules(skeleton) if is_leaf(module)}
    opaque = _autograd_functions(skeleton)
    factors: dict[int, Factor] = {}
    for each in structure.reading.tapes:
        for call in each.tape.calls:
            python = call.owner.node is None and call.owner.module not in leaves
            if not python and (call.owner.graph, call.owner.node) not in opaque:
                continue
            for ref in (*call.reads, *call.makes):
                factors.update((factor.uid, factor) for axis in each.axes.get(ref.id, ()) for factor in axis)
    met = {number for factor in factors.values() for number in _groups_of(structure, factor)}
    return [
        name for name, group in structure.groups.items()
        if group.prunable and len(group.units) > 1 and int(structure.group_of_class[structure.classes[name][0]]) in met
    ]  # fmt: skip


def _autograd_functions(skeleton: nn.Module) -> set[tuple[str | None, str | None]]:
    """Graph and name of each node that runs one: its own Python code is not traced."""
    graphs = ((name, module.graphs) for name, module in named_modules(skeleton) if isinstance(module, TracedModule))
    nodes = ((name, node) for name, modes in graphs for traced in modes.values() for node in traced.graph.nodes)
    return {(name, node.name) for name, node in nodes if isinstance(node.target, Applied)}


def _groups_of(structure: Structure, factor: Factor) -> list[int]:
    if factor.atoms is None:
        return []
    generators = structure.solution.generators(structure.factor_classes(factor))
    found: list[int] = np.unique(structure.group_of_class[generators]).tolist()
    return found


def _search(
    skeleton: nn.Module, structure: Structure, inputs: tuple[Any, dict[str, Any]], names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    problem = _try(skeleton, structure, inputs, names)
    if problem is None:
        return
    if len(names) == 1:
        yield names[0], problem
        return
    half = math.ceil(len(names) / 2)
    yield from _search(skeleton, structure, inputs, names[:half])
    yield from _search(skeleton, structure, inputs, names[half:])


def _try(skeleton: nn.Module, structure: Structure, inputs: tuple[Any, dict[str, Any]], names: Sequence[str]) -> str | None:
    """What is wrong when each of these groups loses its last unit; None when nothing is."""
    living = {name: group.units[:-1] if name in names else group.units for name, group in structure.groups.items()}
    try:
        prediction = predict(structure, living)
        build(skeleton, structure, prediction, _empty(skeleton, structure, prediction.shape), inputs)
    except PlanError as error:
        found = str(error).partition("; this is an error in fxsparse")[0].removeprefix("the changed network does not run: ")
        return f"plain Python code, which could not be traced, does not follow when it loses a unit: {found.partition('; check that')[0]}"
    return None


def _empty(skeleton: nn.Module, structure: Structure, shape: Any) -> Mapping[str, Tensor]:
    """Every tensor by every name on meta, in the shape that it will have; tied names share one."""
    reading = structure.reading
    named = {**dict(skeleton.named_parameters(remove_duplicate=False)), **dict(skeleton.named_buffers(remove_duplicate=False))}
    made: dict[str, Tensor] = {}
    for key, tensor in named.items():
        first = reading.aliases.get(key, key)
        if first in reading.tensors and first not in made:
            made[first] = as_new_parameter(tensor, torch.empty(shape(reading.tensors[first]), dtype=tensor.dtype, device="meta"))
        if first in made:
            made[key] = made[first]
    return made
