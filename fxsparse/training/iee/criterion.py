"""The one criterion: accumulated over steps, and asked once about what lives and once about what rests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fxsparse.sparsity.scores import Mean, Score, Weight, magnitude, squared_taylor, taylor


def as_criterion(criterion: str | Score) -> Mean:
    """A mean over steps: of a score by its name, of a score, or the given one itself."""
    return criterion if isinstance(criterion, Mean) else Mean(criterion)


def by_value(criterion: Mean) -> bool:
    """Whether a weight of zero is worth nothing to it."""
    return criterion.score in (magnitude, taylor, squared_taylor)


def among_living(criterion: Mean, safe: Mapping[str, Tensor] | None = None) -> Score:
    """Only what lives may be chosen, and what is safe is chosen in any case."""

    def score(weight: Weight) -> Tensor:
        assert weight.mask is not None
        worth = criterion(weight).masked_fill(~weight.mask, -torch.inf)
        return worth if safe is None else worth.masked_fill(safe[weight.name] & weight.mask, torch.inf)

    return score


def beside_living(criterion: Mean) -> Score:
    """What lives is chosen in any case, and the criterion decides among the rest."""

    def score(weight: Weight) -> Tensor:
        assert weight.mask is not None
        return criterion(weight).masked_fill(weight.mask, torch.inf)

    return score
