"""The search for dead units: look, take away what is dead, and look again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor

from fxsparse.axes.factors import Bools
from fxsparse.errors import PlanError
from fxsparse.network import Network
from fxsparse.passes.constants.walk import sized
from fxsparse.passes.dead.analysis import Analysis
from fxsparse.passes.dead.carriers import Move, carrier, moves
from fxsparse.passes.dead.findings import Findings
from fxsparse.surgery.journal import put, take
from fxsparse.surgery.plan import predict


@dataclass
class Search:
    """Finds dead units round by round, on tensors in their dense shapes in which removed units are zero."""

    network: Network
    exclude: tuple[str, ...] = ()
    living: dict[str, tuple[int, ...]] = field(init=False)
    shares: dict[str, Tensor] = field(default_factory=dict)  # bias or mean -> what is added to it, dense
    cleared: dict[tuple[str, int], Bools] = field(default_factory=dict)  # weight, axis -> coordinates whose constant has been folded
    moves: list[Move] = field(default_factory=list)
    carriers: dict[str, tuple[int, int]] = field(default_factory=dict)  # group -> the unit that carries, and how many it carries
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
        analysis = Analysis(self.structure, self.network.origin.skeleton, sized(self.network.origin.skeleton))
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
            if not group.prunable or len(units) == 1 or any(name == pattern or fnmatchcase(name, pattern) for pattern in self.exclude):
                continue
            stay = self._needed(name, units, findings)
            if not stay:
                self.kept_alone.add(name)
                stay = units[:1]
            if len(stay) < len(units):
                found[name] = stay
        return found

    def _needed(self, name: str, units: tuple[int, ...], findings: Findings) -> tuple[int, ...]:
        """The units of a group that some call needs; of those that are constants in front of pads, one."""
        classes = self.structure.classes[name][list(units)]
        needed = findings.blocked[classes].copy()
        moving = np.flatnonzero(findings.moving[classes] & ~needed)
        one = carrier(findings, classes[moving]) if len(moving) > 1 else None
        needed[moving if one is None else moving[one]] = True
        return tuple(unit for unit, alive in zip(units, needed.tolist(), strict=True) if alive)

    def _move(self, name: str, leaving: set[int], findings: Findings) -> None:
        """Let the unit that stays carry the constants of those that go."""
        classes = self.structure.classes[name]
        moving = findings.moving & ~findings.blocked
        sources = [unit for unit in sorted(leaving) if moving[classes[unit]]]
        targets = [unit for unit in self.living[name] if moving[classes[unit]]]
        if not sources:
            return
        assert len(targets) == 1
        self.carriers[name] = (targets[0], self.carriers.get(name, (0, 0))[1] + len(sources))
        for move in moves(findings, int(classes[targets[0]]), classes[sources]):
            self.moves.append(move)
            weight = self.tensors[move.weight] = self.tensors[move.weight].clone()
            move.apply(weight, move.target, torch.from_numpy(move.sources))

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
        leaving = {name: {*self.living[name]} - {*units} for name, units in plan.items()}
        self.living |= plan
        for name, units in leaving.items():
            self._move(name, units, findings)
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

    def write(self, network: Network) -> Network:
        """Put the constants where they belong in a copy of the network, and zeros where they were read."""
        masks = dict(network.masks)
        with torch.no_grad():
            for move in self.moves:
                weight = network.module.get_parameter(move.weight).detach()
                here = network.places(move.weight).get(1, np.arange(self.tensors[move.weight].shape[1]))
                sources = torch.from_numpy(np.searchsorted(here, move.sources)).to(weight.device)
                target = int(np.searchsorted(here, move.target))
                move.apply(weight, target, sources)
                if move.weight in masks:
                    mask = masks[move.weight] = masks[move.weight].clone()
                    mask[:, target] |= mask[:, sources].any(1)
            for key, added in self.shares.items():
                bias = network.tensors()[key]
                own = take(added, network.places(key)).to(bias.device)
                bias.copy_(bias.double() + own)
            for (key, axis), lost in self.cleared.items():
                weight = network.module.get_parameter(key)
                silent = lost[network.places(key).get(axis, np.arange(len(lost)))]
                weight.index_fill_(axis, torch.from_numpy(np.flatnonzero(silent)).to(weight.device), 0)
        return replace(network, masks=masks)

    # ---- what to say ----------------------------------------------------------------------------------------------------------------

    def removals(self) -> list[str]:
        found = []
        for name, units in self.living.items():
            before = len(self.network.living[name])
            if len(units) < before:
                found.append(f"{name}: {before - len(units)} of {before} units were dead and are gone")
        for name, (unit, others) in self.carriers.items():
            found.append(f"{name}: unit {unit} carries the constants of {others} others, as there are pads")
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
            reasons = [why for c in classes.tolist() if (why := self.findings.why(c)) is not None]
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
