"""Whether a saved state belongs to this sparsifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from fxsparse.errors import CheckpointError
from fxsparse.sparsity.schedules import Schedule

if TYPE_CHECKING:
    from fxsparse.training.sparsifier import Sparsifier

PARTS = ("method", "steps_done", "masks", "exchanged", "extra")


def settings_of(sparsifier: Sparsifier, step: int) -> dict[str, Any]:
    """What decides on the masks from this step on, in plain values: under other ones, a run would not go on as it was begun."""
    budget = sparsifier.budget
    return {
        "density": _curve(budget.schedule, step),
        "fraction": _curve(sparsifier.fraction, step),
        "interval": sparsifier.interval,
        "pattern": [type(budget.pattern).__name__, budget.pattern.density, dict(budget.units)],
        "allocation": [type(budget.allocation).__name__, {} if budget.ranks else budget.counts(step, {})],
        "seed": sparsifier.seed,
    }


def _curve(schedule: Schedule, step: int) -> list[float]:
    """Its value at first, now and at last, and where it ends."""
    return [float(schedule(0)), float(schedule(step)), float(schedule(schedule.end)), schedule.end]


def require_fitting(state: Mapping[str, Any], sparsifier: Sparsifier) -> None:
    """An error, before anything changes, for the state of another model or method, or of one that was made with other options."""
    method, own = type(sparsifier).__name__, sparsifier.masks
    missing = [part for part in PARTS if part not in state]
    if missing:
        raise CheckpointError(f"this is no state of a sparsifier, as it lacks {missing[0]!r}; give what state_dict() returned")
    if state["method"] != method:
        raise CheckpointError(f"the state is of {state['method']}, not {method}; load it into a {state['method']}")
    masks = state["masks"]
    odd = sorted(set(masks) ^ set(own))
    if odd:
        where = "it is in the state alone" if odd[0] in masks else "the state lacks it"
        raise CheckpointError(f"the state is of another model or of other include and exclude patterns: {odd[0]}, {where}")
    for name, mask in own.items():
        saved = masks[name]
        if saved.shape != mask.shape or saved.dtype != torch.bool:
            raise CheckpointError(
                f"the state is of another model: its mask of {name} is {tuple(saved.shape)} of {saved.dtype}, not {tuple(mask.shape)}"
            )
    saved_settings = state.get("settings", {})
    for what, value in settings_of(sparsifier, int(state["steps_done"])).items():
        if saved_settings.get(what, value) != value:
            raise CheckpointError(
                f"the state is of a run with another {what}{_told(saved_settings[what], value)}; make the {method} as it was made then"
            )


def _told(saved: Any, own: Any) -> str:
    if isinstance(own, int):
        return f", {saved} and not {own}"
    if isinstance(own, list) and all(isinstance(number, float | int) for number in own):  # a curve
        return (
            f", {saved[1]:g} at this step and {saved[2]:g} at last (from step {saved[3]} on), not {own[1]:g} and {own[2]:g} (from {own[3]})"
        )
    return ""
