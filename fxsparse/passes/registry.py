"""The passes by name: ours, and those that other packages bring by the entry point `fxsparse.passes`."""

from __future__ import annotations

import importlib
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from fxsparse.errors import PassError, nearest
from fxsparse.passes.base import Pass
from fxsparse.passes.text import Said

# name -> file and class in fxsparse/passes; imported when asked for
OURS: dict[str, tuple[str, str]] = {
    "simplify": ("simplify", "Simplify"),
    "prune": ("prune", "Prune"),
    "lower-onnx": ("lower_onnx", "LowerOnnx"),
    "regrow": ("regrow", "Regrow"),
    "eliminate-dead-channels": ("eliminate_dead_channels", "EliminateDeadChannels"),
    "add-bias": ("add_bias", "AddBias"),
    "recalibrate-batch-norm": ("recalibrate_batch_norm", "RecalibrateBatchNorm"),
    "mask": ("mask", "Mask"),
    "apply-masks": ("apply_masks", "ApplyMasks"),
    "fold-batch-norm": ("fold_batch_norm", "FoldBatchNorm"),
    "insert-dyrelu": ("insert_dyrelu", "InsertDyrelu"),
    "phase-dyrelu": ("phase_dyrelu", "PhaseDyrelu"),
    "remove-dyrelu": ("remove_dyrelu", "RemoveDyrelu"),
    "share-weights": ("share_weights", "ShareWeights"),
    "unshare-weights": ("unshare_weights", "UnshareWeights"),
}


def pass_names() -> list[str]:
    """All names that a pipeline understands."""
    return sorted({*OURS, *(point.name for point in entry_points(group="fxsparse.passes"))})


def pass_class(name: str) -> type[Pass]:
    """The class of a pass."""
    if name in OURS:
        file, cls = OURS[name]
        found: Any = getattr(importlib.import_module(f"fxsparse.passes.{file}"), cls)
        return found  # type: ignore[no-any-return]
    for point in entry_points(group="fxsparse.passes", name=name):
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, Pass) and found.name == name):
            raise PassError(f"the entry point {point.value!r} is no Pass with the name {name!r}; mend the package that brings it")
        return found
    raise PassError(f"there is no pass {name!r}{nearest(name, pass_names())}")


def made(said: Said) -> Pass:
    """The pass that a text names, with its options."""
    cls = pass_class(said.name)
    known = [each.name for each in fields(cls)]
    for option in said.options:
        if option not in known:
            options = f"; its options are {', '.join(known)}" if known else "; it has none"
            raise PassError(f"{said.name} has no option {option!r}{nearest(option, known) or options}")
    try:
        return cls(**said.options)
    except TypeError as error:
        raise PassError(f"{said.name}: {error}") from error
