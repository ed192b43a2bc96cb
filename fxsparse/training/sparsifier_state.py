"""Whether a saved state belongs to this sparsifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxsparse.errors import CheckpointError

PARTS = ("method", "steps_done", "masks", "exchanged", "extra")


def require_fitting(state: Mapping[str, Any], method: str, own: Mapping[str, Tensor]) -> None:
    """An error, before anything changes, for the state of another model or method."""
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
