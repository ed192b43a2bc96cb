"""Plans: which units of which groups stay, checked before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fxsparse.axes.factors import Atoms
from fxsparse.axes.predict import Prediction
from fxsparse.channels.groups import Structure
from fxsparse.errors import PlanError, nearest

Units = Mapping[str, Sequence[int]]


def checked(structure: Structure, plan: Units, living: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The plan with sorted unit numbers; whatever is wrong with it is one sentence."""
    if not isinstance(plan, Mapping):
        raise PlanError(f"a plan is a dict from group names to unit numbers, not a {type(plan).__name__}")
    result: dict[str, tuple[int, ...]] = {}
    for name, wanted in plan.items():
        group = structure.groups.get(name)
        if group is None:
            raise PlanError(
                f"there is no group {name!r}{nearest(str(name).removesuffix('.weight'), structure.groups)}; `fxsparse inspect` lists them"
            )
        result[name] = numbers(name, wanted, living[name])
        if not group.prunable and len(result[name]) != len(living[name]):
            raise PlanError(f"group {name!r} may not lose a unit: {group.reason}")
    return result


def numbers(name: str, wanted: Sequence[int], allowed: Sequence[int]) -> tuple[int, ...]:
    """Unit numbers, checked against those that exist."""
    if _is_mask(wanted):
        raise PlanError(f"the units of group {name!r} are given as a list of their numbers, not as a mask; give mask.nonzero().flatten()")
    try:
        given = list(wanted.tolist() if hasattr(wanted, "tolist") else wanted)
        units = [int(u) for u in given]
        if isinstance(wanted, (str, bytes)) or any(isinstance(u, (bool, str, bytes)) or u != v for u, v in zip(given, units, strict=True)):
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise PlanError(f"the units of group {name!r} are given as a list of their numbers, such as [0, 3, 4], not as {wanted!r}") from None
    if not units:
        raise PlanError(f"group {name!r} would be left without units; keep at least one")
    if len(set(units)) != len(units):
        twice = next(u for u in units if units.count(u) > 1)
        raise PlanError(f"unit {twice} stands twice in the plan for group {name!r}")
    strangers = sorted(set(units) - set(allowed))
    if strangers:
        span = f"0 to {max(allowed)}" if len(allowed) == max(allowed) + 1 else f"{len(allowed)} numbers up to {max(allowed)}"
        raise PlanError(f"group {name!r} has no living unit {strangers[0]}; its units are {span}")
    return tuple(sorted(units))


def _is_mask(wanted: object) -> bool:
    """Truth values: an array or tensor of them, or a list."""
    items = wanted if isinstance(wanted, (list, tuple)) else ()
    return str(getattr(wanted, "dtype", "")).removeprefix("torch.") == "bool" or any(isinstance(item, bool) for item in items)


def predict(structure: Structure, living: Mapping[str, tuple[int, ...]]) -> Prediction:
    """What everything becomes when these units live; an axis that would end empty is an error that names its tensor."""
    removed: list[Atoms] = []
    for name, units in living.items():
        classes = structure.classes[name]
        if len(units) != len(classes):
            gone = np.ones(len(classes), dtype=bool)
            gone[list(units)] = False
            removed.append(classes[gone])
    alive = structure.solution.living(np.concatenate(removed) if removed else np.zeros(0, dtype=np.int64))
    prediction = Prediction(structure.reading, structure.solution, alive)
    for key, axes in structure.reading.tensors.items():
        for position, axis in enumerate(axes):
            if axis and prediction.size(axis) == 0 and all(factor.size for factor in axis):
                raise PlanError(f"the plan would leave nothing of axis {position} of {key!r}; keep at least one of its units")
    empty = {uid for uid, factor in structure.reading.factors.items() if factor.size and not prediction.count(factor)}
    for each in structure.reading.tapes if empty else ():
        for value, axes in each.axes.items():
            for axis in axes:
                if any(factor.uid in empty for factor in axis):
                    shape = each.tape.values[value].shape
                    raise PlanError(
                        f"the plan would leave nothing of an activation of shape {shape}; keep more units in the groups that feed it"
                    )
    for axis, step, name in structure.reading.book.steps:
        if prediction.size(axis) % step:
            raise PlanError(
                f"the plan would leave {prediction.size(axis)} channels to {name}, whose kernel wants a multiple of {step}; keep such a "
                f"number of units, as Prune(align={step}) does"
            )
    for varying, correction in structure.reading.book.varying:
        if 0 < (left := math.prod(prediction.size(axis) for axis in varying)) <= correction:
            raise PlanError(
                f"the plan would leave nothing to vary: the forward pass takes a variance of {left} number(s), with a correction of "
                f"{correction:g}; keep more units in the group that it is taken over"
            )
    return prediction
