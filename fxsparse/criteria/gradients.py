"""Criteria that look at the loss: first-order Taylor over the weights, and over batch norms alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fxsparse.criteria.base import Data, Scores
from fxsparse.criteria.batches import cross_entropy, outputs_of, split
from fxsparse.criteria.units import Units, normaliser, numbers
from fxsparse.errors import PassError
from fxsparse.network import Network


def gradients(network: Network, data: Data, what: str) -> Iterator[dict[str, Tensor]]:
    """The gradients of the loss for each batch, by parameter; the network's own `.grad` and mode stay as they are."""
    if data.batches is None:
        raise PassError(f"{what} needs gradients; give batches of inputs and targets: data=loader, or --data")
    named = {key: p for key, p in network.module.named_parameters(remove_duplicate=False) if p.requires_grad}
    if not named:
        raise PassError(f"{what} needs gradients, and no parameter of the network asks for one; set requires_grad")
    device = next(iter(named.values())).device
    modes = {name: module.training for name, module in network.module.named_modules()}
    network.module.eval()
    seen = 0
    try:
        for batch in data.batches:
            inputs, targets = split(batch)
            inputs, targets = tree_map_only(Tensor, lambda t: t.to(device), (inputs, targets))
            loss = (data.loss or cross_entropy)(outputs_of(network.module, inputs), targets)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            yield {key: g for key, g in zip(named, found, strict=True) if g is not None}
            seen += 1
    finally:
        for name, module in network.module.named_modules():
            module.training = modes[name]
    if not seen:
        raise PassError(
            f"{what} needs gradients, and the data holds no batch; a generator is used up after one look, so give a list or a DataLoader"
        )


@dataclass(frozen=True)
class Taylor:
    """What the loss would change if a unit went, to first order: the sum of weight times gradient, squared, averaged over batches."""

    normalise: str = "none"
    power: float = 2

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        units = Units(network)
        places = {name: units.weights(name) for name in groups}
        return _scaled(_averaged(network, data, units, places, self.power, "taylor"), places, self.normalise)


@dataclass(frozen=True)
class BatchNormTaylor:
    """The same over scales and shifts of batch norms: summed inside the group first, then the absolute value, then the mean."""

    normalise: str = "none"

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        units = Units(network)
        places = {name: list(units.norms(name)) for name in groups}
        bare = next((name for name, found in places.items() if not found), None)
        if bare is not None:
            raise PassError(f"bn-taylor needs batch norms, and group {bare!r} has none; protect it, or use another criterion")
        return _scaled(_averaged(network, data, units, places, 1, "bn-taylor"), places, self.normalise)


def _averaged(network: Network, data: Data, units: Units, places: Mapping[str, Any], power: float, what: str) -> dict[str, Scores]:
    totals = {name: np.zeros(len(network.living[name])) for name in places}
    count = 0
    for found in gradients(network, data, what):
        times = _weight_times(units, found)
        for name in places:
            totals[name] += np.abs(units.summed(name, places[name], times)) ** power
        count += 1
    return {name: total / count for name, total in totals.items()}


def _weight_times(units: Units, found: Mapping[str, Tensor]) -> Callable[[str], Tensor]:
    return lambda key: units.tensors[key] * numbers(found[key]) if key in found else torch.zeros_like(units.tensors[key])


def _scaled(scores: Mapping[str, Scores], places: Mapping[str, Any], normalise: str) -> dict[str, Scores]:
    return {name: normaliser(normalise)(values, len(places[name])) for name, values in scores.items()}
