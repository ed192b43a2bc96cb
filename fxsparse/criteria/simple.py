"""Criteria that look at weights alone: magnitude, LAMP, batch-norm scale; random ones, and scores that somebody gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxsparse.criteria.base import Data, Scores
from fxsparse.criteria.units import Units, normaliser, relative
from fxsparse.errors import PassError
from fxsparse.network import Network


@dataclass(frozen=True)
class Magnitude:
    """The size of the weights that produce a unit: the sum of |w|^power, over that of the average unit, added up over the weight tensors.

    A unit of a residual stream is made in many layers, and counts in each. See `fxsparse.criteria.units.relative` for the default scale.
    """

    power: float = 2
    normalise: str = "relative"

    def __post_init__(self) -> None:
        normaliser(self.normalise)

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        units = Units(network)
        scores: dict[str, Scores] = {}
        for name in groups:
            places = units.weights(name)
            each = [units.summed(name, [place], lambda key: units.tensors[key].abs() ** self.power) for place in places]
            total: Scores = np.sum([sizes / max(float(sizes.mean()), np.finfo(np.float64).tiny) for sizes in each], axis=0)
            scores[name] = normaliser(self.normalise)(total, len(places))
        return scores


@dataclass(frozen=True)
class LAMP:
    """Layer-adaptive magnitude (Lee et al., 2021) of whole units: squared norm over that of all units of the group that are not smaller."""

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        units = Units(network)
        return {name: relative(units.summed(name, units.weights(name), lambda key: units.tensors[key] ** 2)) for name in groups}


@dataclass(frozen=True)
class BatchNormScale:
    """The size of a channel's batch-norm scale, as in network slimming (Liu et al., 2017)."""

    normalise: str = "none"

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        units = Units(network)
        raw: dict[str, Scores] = {}
        for name in groups:
            scales = [(place, index) for place, index in units.norms(name) if place.member.tensor.endswith("weight")]
            if not scales:
                raise PassError(f"bn-scale needs batch norms, and group {name!r} has none; protect it, or use another criterion")
            raw[name] = units.summed(name, scales, lambda key: units.tensors[key].abs()) / len(scales)
        return {name: normaliser(self.normalise)(values, 1) for name, values in raw.items()}


@dataclass(frozen=True)
class Random:
    """Uniform numbers, the same for the same seed, brought on one scale."""

    seed: int = 0

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        generator = np.random.default_rng(self.seed)
        every = {name: generator.random(len(network.origin.structure.classes[name])) for name in network.living}
        return {name: relative(every[name][list(network.living[name])]) for name in groups}


@dataclass(frozen=True)
class Given:
    """Scores that were made elsewhere: group name -> a number for each living unit."""

    scores: Mapping[str, Any]

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        return {name: self.scores[name] for name in groups if name in self.scores}
