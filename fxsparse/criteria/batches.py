"""Batches: what of them a network takes, and what its loss takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.errors import PassError


def inputs_of(batch: Any) -> tuple[Any, ...]:
    """The network's arguments in a batch: the batch is a tensor, or inputs and targets; inputs may be a tuple themselves."""
    if isinstance(batch, (tuple, list)) and batch:
        first = batch[0]
        return tuple(first) if isinstance(first, (tuple, list)) else (first,)
    return (batch,)


def split(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """A batch as positional arguments and targets."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return inputs_of(batch), batch[1]
    raise PassError(f"a batch is (inputs, targets), not a {type(batch).__name__}; wrap the loader")


def outputs_of(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """What the network makes of a batch; one that it cannot take is an error that says of which shapes it is."""
    try:
        return module(*args)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        raise PassError(f"the network cannot take a batch of shape {shapes or type(args[0]).__name__}: {_first_line(error)}") from error


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """Of the first floating tensor among the outputs."""
    logits = next((leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
    if not isinstance(targets, Tensor) or logits is None:
        raise PassError(f"targets of type {type(targets).__name__} need a loss of their own: loss=function(outputs, targets)")
    try:
        return torch.nn.functional.cross_entropy(logits, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        raise PassError(
            f"no cross-entropy of outputs {tuple(logits.shape)} and targets {tuple(targets.shape)}: {_first_line(error)}; "
            "give data of the network's classes, or loss=function(outputs, targets)"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
