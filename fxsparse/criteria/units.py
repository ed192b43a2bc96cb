"""From numbers for each weight to numbers for each unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fxsparse.channels.coordinates import Coordinates, Place
from fxsparse.criteria.base import Scores
from fxsparse.errors import PassError
from fxsparse.network import Network


def numbers(tensor: Tensor) -> Tensor:
    """A tensor as plain numbers: truth values, which have no size, count as 0 and 1; a complex one has two, along one more axis."""
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj())
    return tensor.to(torch.uint8) if tensor.dtype is torch.bool else tensor


class Units:
    """The living units of a network, and where they have their coordinates."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.coordinates = Coordinates(network.origin.structure)
        self.tensors = {key: numbers(tensor.detach()) for key, tensor in network.tensors().items()}

    def places(self, group: str) -> list[tuple[Place, Tensor]]:
        """Each place with the position, among the living units, of each index that its tensor has now; -1 for none."""
        living = self.network.living[group]
        position = np.full(max(living) + 2, -1, dtype=np.int64)
        position[list(living)] = np.arange(len(living))
        found = []
        for place in self.coordinates.places[group]:
            kept = self.network.places(place.member.tensor).get(place.member.axis)
            units = place.units if kept is None else place.units[kept]
            found.append((place, torch.from_numpy(np.where(units >= 0, position[np.clip(units, 0, len(position) - 1)], -1))))
        return found

    def weights(self, group: str) -> list[tuple[Place, Tensor]]:
        """The places by which a group's units are judged: the weights that produce them, else whatever holds them."""
        every = self.places(group)
        for chosen in (
            [(p, i) for p, i in every if p.member.role == "produces" and self.tensors[p.member.tensor].dim() > 1],
            [(p, i) for p, i in every if p.member.role == "produces"],
            [(p, i) for p, i in every if self.tensors[p.member.tensor].is_floating_point()],
        ):
            if chosen:
                return chosen
        return every

    def norms(self, group: str) -> Iterator[tuple[Place, Tensor]]:
        """The places in scales and shifts of batch norms."""
        for place, index in self.places(group):
            module, _, name = place.member.tensor.rpartition(".")
            if name in ("weight", "bias") and isinstance(self.network.module.get_submodule(module), nn.modules.batchnorm._BatchNorm):
                yield place, index

    def summed(self, group: str, places: list[tuple[Place, Tensor]], value: Callable[[str], Tensor]) -> Scores:
        """The sum over all coordinates of each living unit."""
        total = torch.zeros(len(self.network.living[group]), dtype=torch.float64)
        for place, index in places:
            tensor = value(place.member.tensor).to("cpu", torch.float64)
            others = [axis for axis in range(tensor.dim()) if axis != place.member.axis]
            line = tensor.sum(dim=others) if others else tensor
            total.index_add_(0, index[index >= 0], line[index >= 0])
        result: Scores = total.numpy()
        return result

    def rows(self, group: str, places: list[tuple[Place, Tensor]]) -> Tensor:
        """Each living unit's weights side by side: one row a unit. Places whose units have unequal numbers of coordinates are left out."""
        count = len(self.network.living[group])
        parts = []
        for place, index in places:
            tensor = self.tensors[place.member.tensor].to("cpu", torch.float32)
            mine = index >= 0
            line = tensor.movedim(place.member.axis, 0).reshape(tensor.shape[place.member.axis], -1)[mine]
            order = torch.argsort(index[mine], stable=True)
            sizes = torch.bincount(index[mine], minlength=count)
            if count and bool((sizes == sizes[0]).all()):
                parts.append(line[order].reshape(count, -1))
        return torch.cat(parts, dim=1) if parts else torch.zeros(count, 1)


def relative(values: Scores, weight: float = 1.0) -> Scores:
    """Each unit's part of what is left when all lesser ones have gone, times a weight.

    Scores that only rank the units of one group become comparable between groups, and the fewer units are left, the more each is worth:
    no group is emptied because its units are cheap. On squares, and with weight 1, this is LAMP (Lee et al., 2021).
    """
    order = np.argsort(values, kind="stable")
    remaining = np.cumsum(values[order][::-1])[::-1]
    result = np.empty_like(values)
    result[order] = weight * values[order] / np.maximum(remaining, np.finfo(np.float64).tiny)
    return result


def _over(values: Scores, scale: float) -> Scores:
    return values / scale if scale > 0 else values


# How the scores of one group, made by so many weight tensors, are brought on one scale with those of others.
NORMALISE: dict[str, Callable[[Scores, int], Scores]] = {
    "relative": lambda values, producers: relative(values, producers),
    "none": lambda values, producers: values,
    "mean": lambda values, producers: _over(values, float(values.mean())),
    "max": lambda values, producers: _over(values, float(values.max())),
    "sum": lambda values, producers: _over(values, float(values.sum())),
}


def normaliser(name: str) -> Callable[[Scores, int], Scores]:
    """One of `NORMALISE`."""
    if name not in NORMALISE:
        raise PassError(f"normalise is one of {', '.join(NORMALISE)}, not {name!r}")
    return NORMALISE[name]
