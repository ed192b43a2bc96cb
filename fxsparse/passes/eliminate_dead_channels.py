"""The pass `eliminate-dead-channels`: channels that sparsity has silenced are removed for real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fxsparse.errors import PlanError
from fxsparse.network import Network
from fxsparse.passes.add_bias import AddBias
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.constants import sized_nodes
from fxsparse.passes.dead_channels import Analysis, Bools, Findings
from fxsparse.passes.equality import require_same_function
from fxsparse.surgery.journal import put, take
from fxsparse.surgery.plan import predict

Living = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class EliminateDeadChannels(Pass):
    """Remove the units that say nothing: those that are constant, and those that nobody listens to.

    A unit is constant when all the weights that make it are zero, or meet only constants: what is left of it is a bias, a norm's shift, and
    what functions make of them. Its constant goes into the bias of the layers that read it; where they have none, into the running mean of
    the norm behind them, or else into a new bias. A unit to which only zero weights listen goes as it is. What has gone may silence others,
    so the search is repeated until nothing more is found. `exclude` names groups that stay whole, by pattern.

    Assumes eval semantics for norms and dropout, and activations that are finite. Only zeros that stand in the weights count, see `apply-masks`.

    Guarantees the same function, checked in float64 on the example inputs. Left alone, with the reason: constants that are not zero in
    front of a layer that pads with zeros, channels over which a norm takes its statistics, the last unit of a group. What is grown back
    later says nothing either: the weights that would read a folded constant are zero.

    Example: `mask{sparsity=0.98},eliminate-dead-channels`
    """

    name: ClassVar[str] = "eliminate-dead-channels"
    exclude: tuple[str, ...] = ()

    def run(self, network: Network, context: Context) -> PassResult:
        refused: dict[str, str] = {}
        while True:
            search = Search(network, (*self.exclude, *refused))
            search.run()
            notes = (*search.removals(), *search.left_alone(), *(f"{name} stays whole: {why}" for name, why in refused.items()))
            if search.living == dict(network.living):
                return PassResult(network, False, notes)
            try:
                return PassResult(_without(network, search), True, notes)
            except PlanError:
                found = _refused(network, search.living)
                if not found:
                    raise
                refused |= found

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified:
            require_same_function(self.name, network, result.network)


def _without(network: Network, search: Search) -> Network:
    """The network after a search: biases where constants need them, constants in the biases, dead units gone."""
    layers = tuple(sorted(search.new_biases))
    made = AddBias(layers)(network).network if layers else network
    if search.shares:
        made = made.with_living(made.living)
        search.write(made)
    return made.shrink(search.living)


def _refused(network: Network, living: Living) -> dict[str, str]:
    """Groups whose units cannot go, as code around them does not follow, and why; tried one after the other."""
    found: dict[str, str] = {}
    plan: dict[str, tuple[int, ...]] = {}
    for name, units in living.items():
        if len(units) < len(network.living[name]):
            try:
                network.shrink({**plan, name: units})
                plan[name] = units
            except PlanError as error:
                found[name] = str(error)
    return found


@dataclass
class Search:
    """Finds dead units round by round, on tensors in their dense shapes in which removed units are zero."""

    network: Network
    exclude: tuple[str, ...] = ()
    living: dict[str, tuple[int, ...]] = field(init=False)
    shares: dict[str, Tensor] = field(default_factory=dict)  # bias or mean -> what is added to it, dense
    cleared: dict[tuple[str, int], Bools] = field(default_factory=dict)  # weight, axis -> coordinates whose constant has been folded
    new_biases: dict[str, Tensor] = field(default_factory=dict)  # layer -> its bias to be, dense
    findings: Findings | None = None
    kept_alone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.structure = self.network.origin.structure
        self.living = dict(self.network.living)
        self.tensors = self._dense()

    def _dense(self) -> dict[str, Tensor]:
        skeleton = self.network.origin.skeleton.state_dict(keep_vars=True)
        shapes = {**skeleton, **dict(self.network.origin.skeleton.named_buffers())}
        made = {}
        for key, tensor in self.network.tensors().items():
            if key in self.structure.reading.tensors:
                places = self.network.places(key)
                value = tensor.detach().cpu()
                made[key] = put(value.new_zeros(shapes[key].shape), places, value) if places else value
        return made

    def run(self) -> None:
        analysis = Analysis(self.structure, self.network.origin.skeleton, sized_nodes(self.network.origin.skeleton))
        while True:
            self.findings = analysis.look(self.tensors, self.new_biases)
            chosen = self._feasible(self._dead(self.findings))
            if not chosen:
                return
            self._remove(chosen, self.findings)

    def _dead(self, findings: Findings) -> dict[str, tuple[int, ...]]:
        """Group -> the units that stay, for groups that lose some."""
        found = {}
        for name, group in self.structure.groups.items():
            units = self.living[name]
            if not group.prunable or len(units) == 1 or any(fnmatchcase(name, pattern) for pattern in self.exclude):
                continue
            needed = findings.blocked[self.structure.classes[name][list(units)]]
            stay = tuple(unit for unit, alive in zip(units, needed.tolist(), strict=True) if alive)
            if not stay:
                self.kept_alone.add(name)
                stay = units[:1]
            if len(stay) < len(units):
                found[name] = stay
        return found

    def _feasible(self, plan: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The plan, or what of it leaves no axis empty."""
        try:
            predict(self.structure, {**self.living, **plan})
            return plan
        except PlanError:
            made: dict[str, tuple[int, ...]] = {}
            for name, units in plan.items():
                try:
                    predict(self.structure, {**self.living, **made, name: units})
                    made[name] = units
                except PlanError:
                    self.kept_alone.add(name)
            return made

    def _remove(self, plan: dict[str, tuple[int, ...]], findings: Findings) -> None:
        before = predict(self.structure, self.living)
        self.living |= plan
        after = predict(self.structure, self.living)
        done: set[str] = set()
        for share in findings.shares:
            gone = before.mask(share.axis) & ~after.mask(share.axis)
            if share.bias.key in done or not gone[share.columns].any():
                continue
            done.add(share.bias.key)
            added = share.terms[:, torch.from_numpy(gone[share.columns])].sum(1)
            if not bool(added[torch.from_numpy(after.mask(share.outputs))].any()):
                continue  # all outputs that it reaches go as well
            self._add(share.bias.key, share.bias.layer, share.bias.sign * added)
            inputs = 0 if share.turned else 1
            first = self.structure.reading.tensors[share.weight][inputs]
            lost = before.mask(first) & ~after.mask(first)
            known = self.cleared.get((share.weight, inputs))
            self.cleared[share.weight, inputs] = lost if known is None else known | lost
        for key, axes in self.structure.reading.tensors.items():
            if key in self.tensors:
                self.tensors[key] = _cleared(self.tensors[key], [after.mask(axis) for axis in axes])

    def _add(self, key: str, layer: str | None, added: Tensor) -> None:
        self.shares[key] = self.shares.get(key, torch.zeros_like(added)) + added
        if layer is not None:
            self.new_biases[layer] = self.shares[key]
        else:
            self.tensors[key] = (self.tensors[key].double() + added).to(self.tensors[key].dtype)

    def write(self, network: Network) -> None:
        """Put the constants into the biases of a copy of the network, and zeros where they were read."""
        with torch.no_grad():
            for key, added in self.shares.items():
                bias = network.tensors()[key]
                own = take(added, network.places(key)).to(bias.device)
                bias.copy_(bias.double() + own)
            for (key, axis), lost in self.cleared.items():
                weight = network.module.get_parameter(key)
                here = lost[network.places(key).get(axis, np.arange(len(lost)))]
                weight.index_fill_(axis, torch.from_numpy(np.flatnonzero(here)).to(weight.device), 0)

    # ---- what to say ----------------------------------------------------------------------------------------------------------------

    def removals(self) -> list[str]:
        found = []
        for name, units in self.living.items():
            before = len(self.network.living[name])
            if len(units) < before:
                found.append(f"{name}: {before - len(units)} of {before} units were dead and are gone")
        if self.shares:
            found.append(f"constants went into {', '.join(sorted(self.shares))}")
        return found

    def left_alone(self) -> list[str]:
        """Units that are constant and stay, by group and reason."""
        assert self.findings is not None
        found = []
        for name in self.structure.groups:
            classes = self.structure.classes[name][list(self.living[name])]
            if not self.structure.groups[name].prunable:
                continue
            reasons = [self.findings.reasons[c] for c in classes.tolist() if c in self.findings.reasons and self.findings.blocked[c]]
            for reason in dict.fromkeys(reasons):
                found.append(f"{name}: {reasons.count(reason)} units are constant and stay: {reason}")
            if name in self.kept_alone:
                found.append(f"{name}: a dead unit stays, as the group would be left without any")
        return found


def _cleared(tensor: Tensor, masks: list[Bools]) -> Tensor:
    """Zero wherever a coordinate is gone."""
    made = tensor
    for axis, mask in enumerate(masks):
        if not mask.all():
            made = made.clone() if made is tensor else made
            made.index_fill_(axis, torch.from_numpy(np.flatnonzero(~mask)), 0)
    return made
