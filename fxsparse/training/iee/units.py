"""What a unit is worth - a channel, a head, whatever goes as a whole - by the values and gradients of the tensors that it runs through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fxsparse.channels.groups import Member
from fxsparse.criteria.base import Data, as_criterion, criterion_names, scored
from fxsparse.criteria.units import relative
from fxsparse.errors import Error
from fxsparse.network import Network

UnitScore = Callable[[Network], Mapping[str, Tensor]]  # group -> the worth of each of its living units, in their order
Element = Callable[[Tensor], Tensor]
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def magnitude(network: Network) -> dict[str, Tensor]:
    """The squared length of the slices that produce a unit, as a part of what is left of its group when all lesser units have gone, so that
    groups compare and none is emptied."""
    producers = {g.name: sum(m.role == "produces" for m in g.members) for g in network.groups}
    totals = _summed(network, _producing, lambda t: t.detach().abs().square())
    return {name: torch.from_numpy(relative(total.double().numpy(), producers[name])) for name, total in totals.items()}


def taylor(network: Network) -> dict[str, Tensor]:
    """(sum of w dL/dw)^2 over the slices that produce a unit: the change of the loss, to first order, when it goes, squared."""
    return {name: total.square() for name, total in _summed(network, _producing, _first_order).items()}


def squared_taylor(network: Network) -> dict[str, Tensor]:
    """The sum of (w dL/dw)^2 over the slices that produce a unit."""
    return _summed(network, _producing, lambda t: _first_order(t).square())


def bn_taylor(network: Network) -> dict[str, Tensor]:
    """|sum of gamma dL/dgamma + beta dL/dbeta| over all norms that a unit runs through: summed inside the group first, abs last."""
    return {name: total.abs() for name, total in _summed(network, _normed, _first_order).items()}


SCORES: dict[str, UnitScore] = {"magnitude": magnitude, "taylor": taylor, "squared-taylor": squared_taylor, "bn-taylor": bn_taylor}


class UnitCriterion:
    """The mean of a score of units over several steps. One object decides what goes and what comes back."""

    def __init__(self, score: str | UnitScore) -> None:
        names = [*SCORES, *(name for name in criterion_names() if name not in SCORES)]
        if isinstance(score, str) and score not in names:
            raise Error(f"there is no score of units {score!r}; choose {', '.join(names)}, or give a function of a Network")
        self.score: UnitScore = (SCORES.get(score) or _of_weights(score)) if isinstance(score, str) else score
        self.reads_gradient = not isinstance(score, str) or (score in SCORES and score != "magnitude")  # of a function, we think so
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, network: Network) -> None:
        with torch.no_grad():
            self.take(self.score(network))

    def take(self, scores: Mapping[str, Tensor]) -> None:
        """One step's scores of all groups."""
        with torch.no_grad():
            for name, worth in scores.items():
                self.sums[name] = self.sums[name] + worth if name in self.sums else worth.detach().clone()
        self.steps += 1

    def worth(self, network: Network) -> dict[str, Tensor]:
        """Group -> the mean worth of all units, those that the network has not at -infinity."""
        if not self.steps:
            raise Error("no step was added to the criterion of units; call add() after backward()")
        found = {}
        for name, total in self.sums.items():
            if not bool(total.isfinite().all()):
                raise Error(f"the worth of a unit of group {name!r} is not a number; look for nan in its weights and gradients")
            dense = torch.full((len(network.origin.structure.classes[name]),), -torch.inf)
            dense[list(network.living[name])] = total.float().cpu() / self.steps
            found[name] = dense
        return found

    def clear(self) -> None:
        self.sums, self.steps = {}, 0

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.sums, self.steps = {name: tensor.clone() for name, tensor in state["sums"].items()}, int(state["steps"])


def _of_weights(name: str) -> UnitScore:
    """One of the criteria that prune, among those that look at weights alone."""

    def score(network: Network) -> dict[str, Tensor]:
        groups = [group.name for group in network.groups if group.prunable]
        return {group: torch.from_numpy(values) for group, values in scored(as_criterion(name), network, groups, Data()).items()}

    return score


def _first_order(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor.real) if tensor.grad is None else (tensor.detach() * tensor.grad.conj()).real


def _producing(network: Network, member: Member) -> bool:
    return member.role == "produces"


def _normed(network: Network, member: Member) -> bool:
    return isinstance(network.module.get_submodule(member.tensor.rpartition(".")[0]), NORMS)


def _summed(network: Network, wanted: Callable[[Network, Member], bool], element: Element) -> dict[str, Tensor]:
    """Group -> for each living unit, the sum of an element-wise function over its slices of the wanted parameters."""
    tensors = network.tensors()
    made: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for group in network.groups:
        members = [m for m in group.members if group.prunable and isinstance(tensors[m.tensor], nn.Parameter) and wanted(network, m)]
        if group.prunable and not members:
            raise Error(f"group {group.name!r} has no parameter that this criterion looks at; choose another one, or exclude the group")
        total = torch.zeros(len(network.origin.structure.classes[group.name]))
        for member in members:
            tensor = tensors[member.tensor]
            if member.tensor not in made:
                made[member.tensor] = element(tensor).float()
            line = made[member.tensor].movedim(member.axis, 0).reshape(tensor.shape[member.axis], -1).sum(1).cpu()
            positions, units = _positions(network, member, group.name)
            total.index_add_(0, units, line[positions])
        if members:
            found[group.name] = total[list(network.living[group.name])]
    return found


def _positions(network: Network, member: Member, name: str) -> tuple[Tensor, Tensor]:
    """Where on the member's axis, as it is now, the units of the group stand."""
    pairs = np.array(network.origin.structure.coordinates(member.tensor, member.axis, name), dtype=np.int64).reshape(-1, 2)
    there = network.places(member.tensor).get(member.axis)
    if there is not None:
        pairs = pairs[np.isin(pairs[:, 0], there)]
        pairs = np.stack([np.searchsorted(there, pairs[:, 0]), pairs[:, 1]], 1)
    return torch.from_numpy(pairs[:, 0].copy()), torch.from_numpy(pairs[:, 1].copy())
