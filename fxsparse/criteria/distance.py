"""FPGM (He et al., 2019): what lies near the middle of its group can be replaced by the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fxsparse.criteria.base import Data, Scores
from fxsparse.criteria.units import Units, normaliser
from fxsparse.network import Network


@dataclass(frozen=True)
class FPGM:
    """The sum of a unit's distances to all units of its group."""

    normalise: str = "relative"

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        units = Units(network)
        scores: dict[str, Scores] = {}
        for name in groups:
            places = units.weights(name)
            rows = units.rows(name, places)
            scores[name] = normaliser(self.normalise)(torch.cdist(rows, rows).sum(dim=1).to(torch.float64).numpy(), len(places))
        return scores
