"""Making masks, and exchanging a part of one."""

from __future__ import annotations

import torch
from torch import Tensor

from fxsparse.sparsity.patterns import Pattern, Unstructured, top

_ZERO = torch.zeros(())


def choose(pattern: Pattern, scores: Tensor, count: int, unit: int = 1) -> Tensor:
    """The mask of the best `count` weights, in units of the pattern."""
    return _spread(pattern, pattern.select(pattern.pool(scores), count // unit), scores)


def exchange(pattern: Pattern, mask: Tensor, drop: Tensor, grow: Tensor, count: int, fraction: float, unit: int = 1) -> Tensor:
    """A new mask of `count` weights. Of the living units a `fraction` goes, those that score least in `drop`; what is then missing comes
    from all others, those that have just gone included, by the best of `grow`.

    With fraction 0 this prunes where `count` falls, and grows where it rises.
    """
    living = mask if isinstance(pattern, Unstructured) else pattern.pool(mask.float()) > 0
    wanted = count // unit
    stay = min(int(living.sum()), wanted)
    stay -= round(fraction * stay)
    kept = top(pattern.pool(drop).masked_fill(~living, -torch.inf), stay)
    ranking = pattern.pool(grow).masked_fill(kept, torch.inf)
    return _spread(pattern, pattern.select(ranking, wanted), mask)


def nonzeros(mask: Tensor) -> int:
    """How many weights live."""
    return int(torch.count_nonzero(mask))


def apply(mask: Tensor, tensor: Tensor) -> None:
    """Zeros, in place, where the mask is false: positive zeros, also where the tensor is negative, infinite or not a number."""
    torch.where(mask, tensor, _ZERO, out=tensor)


def laid_out_as(tensor: Tensor, mask: Tensor) -> Tensor:
    """The mask in the tensor's order in memory (channels last, say), as every step runs through both."""
    return mask if mask.stride() == tensor.stride() else torch.empty_like(tensor, dtype=torch.bool).copy_(mask)


def _spread(pattern: Pattern, units: Tensor, like: Tensor) -> Tensor:
    mask = torch.empty_like(like, dtype=torch.bool)
    return mask.copy_(pattern.spread(units, like.shape))
