"""What must be zero so that a grown unit says nothing, and yet learns.

Where a weight consumes the unit, the weight's slice is zero. Where two activations meet (queries and keys), one of them must be zero and
the other must not, and the axes do not say which weights make which: a packed projection makes both. So choices are tried: on random
values in float64, a network with one unit grown must do what it does without, and some gradient must reach the unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.axes.factors import Atoms
from fxsparse.channels.coordinates import Coordinates, Place
from fxsparse.channels.groups import Member
from fxsparse.errors import PlanError
from fxsparse.surgery.journal import Places, grid, take
from fxsparse.surgery.reference import InDouble
from fxsparse.surgery.reference_state import randomised_state
from fxsparse.tracing.copies import duplicate

if TYPE_CHECKING:
    from fxsparse.network import Network

SEEDS = (0, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """Of the coordinates that a unit has on one axis: those of the run `index` of `count`, or every `count`-th."""

    member: Member
    count: int = 1
    index: int = 0
    strided: bool = False

    def of(self, coordinates: list[int]) -> list[int]:
        if self.count == 1:
            return coordinates
        if self.strided:
            return coordinates[self.index :: self.count]
        length = len(coordinates) // self.count
        return coordinates[self.index * length : (self.index + 1) * length]


Choice = tuple[Part, ...]
Zeros = dict[tuple[str, int], dict[int, list[int]]]


@dataclass(slots=True)
class Silences:
    """What has been found out so far, for all networks of one trace."""

    choices: dict[str, Choice | str] = field(default_factory=dict)  # group -> what is zero in a grown unit, or why nothing can be
    zeros: dict[str, Zeros] = field(default_factory=dict)
    thin: dict[int, Network] = field(default_factory=dict)  # networks with so few units of each group, for trials
    places: dict[str, list[Place]] = field(default_factory=dict)


def silence(network: Network, name: str) -> Choice:
    """What is zero for a grown unit of this group."""
    known = network.origin.silences.choices
    if name not in known:
        known[name] = _found(network, name)
    choice = known[name]
    if isinstance(choice, str):
        raise PlanError(f"group {name!r} {choice}, so init='zero' cannot keep the function; use 'journal' or 'fresh'")
    return choice


def may_be_silent(network: Network, name: str) -> bool:
    """Whether a group can grow with init='zero'."""
    try:
        silence(network, name)
    except PlanError:
        return False
    return True


def zeros(network: Network, name: str) -> Zeros:
    """For each tensor and axis that says something for this group: unit -> the dense coordinates that are zero when it is grown."""
    known = network.origin.silences.zeros
    if name not in known:
        known[name] = {(part.member.tensor, part.member.axis): _coordinates(network, name, part) for part in silence(network, name)}
    return known[name]


def _coordinates(network: Network, name: str, part: Part) -> dict[int, list[int]]:
    """unit -> the dense coordinates that it has in this part."""
    places = network.origin.silences.places
    if not places:
        places.update(Coordinates(network.origin.structure).places)
    units: dict[int, list[int]] = {}
    for place in places[name]:
        if (place.member.tensor, place.member.axis) == (part.member.tensor, part.member.axis):
            for coordinate in np.flatnonzero(place.units >= 0).tolist():
                units.setdefault(int(place.units[coordinate]), []).append(coordinate)
    return {unit: part.of(coordinates) for unit, coordinates in units.items()}


def _found(network: Network, name: str) -> Choice | str:
    """The choice, or why there is none."""
    group = network.origin.structure.groups[name]
    reading = network.origin.structure.reading
    book = reading.book
    if _meets(network, name, book.statistics):
        return "is normalised over its units: growing one changes the statistics of all"
    consumers = tuple(Part(member) for member in group.members if member.role == "consumes")
    silenced = {factor.uid for part in consumers for factor in reading.tensors[part.member.tensor][part.member.axis]}
    meetings = book.meetings | book.consumers - silenced  # tied, so that it makes the unit as well, or a part of an axis
    on_meta = any(parameter.is_meta for parameter in network.module.parameters())
    if (consumers and not _meets(network, name, meetings)) or on_meta or len(group.units) < 2:
        return consumers
    pair = _pair(network, name)
    if pair is None:
        return "cannot lose a single unit, so that growing one cannot be tried"
    trial = _Trial(*pair, name)
    best: Choice | None = None
    for choice in _choices(group.members, consumers):
        silent, learns = trial(choice)
        if silent and learns:
            return choice
        if silent and best is None:
            best = choice
    return "reaches what lives without passing a weight that could be zero" if best is None else best


def _meets(network: Network, name: str, uids: set[int]) -> bool:
    structure = network.origin.structure
    classes = set(structure.classes[name].tolist())
    factors = (structure.reading.algebra.factors[uid] for uid in uids)
    return any(classes & set(structure.solution.generators(structure.factor_classes(f)).tolist()) for f in factors if f.atoms is not None)


def _choices(members: tuple[Member, ...], consumers: Choice) -> Iterator[Choice]:
    """The consumers; then with them each module that makes the unit, whole, by thirds and by halves; then each tensor."""
    if consumers:
        yield consumers
    makers: dict[str, list[Member]] = {}
    for member in members:
        if member.role != "consumes":
            makers.setdefault(member.tensor.rpartition(".")[0], []).append(member)
    for count, strided in ((1, False), (3, False), (3, True), (2, False), (2, True)):
        for module in makers.values():
            for index in range(count):
                yield (*consumers, *(Part(member, count, index, strided) for member in module))
    for module in makers.values():
        for member in module if len(module) > 1 else ():
            yield (*consumers, Part(member))


class _Trial:
    """A thin network of the same structure, and the same without a unit of a group; `choice` is put to the test on random values."""

    def __init__(self, wide: Network, narrow: Network, name: str) -> None:
        self.wide, self.narrow = wide, narrow
        self.name, self.unit = name, wide.living[name][-1]
        self.modules = [duplicate(each.module, {}).cpu().double().eval() for each in (self.wide, self.narrow)]
        self.states = [randomised_state(self.modules[0], seed) for seed in SEEDS]
        self.expected: dict[int, list[Tensor]] = {}

    def __call__(self, choice: Choice) -> tuple[bool, bool]:
        """Whether the unit says nothing, and whether it learns."""
        learns = False
        for number, state in enumerate(self.states):
            if number not in self.expected:
                self.expected[number] = self.run(1, {key: take(value, self.left(key)) for key, value in state.items()})
            zeroed = self.zeroed(state, choice)
            outputs = self.run(0, zeroed)
            for got, wanted in zip(outputs, self.expected[number], strict=True):
                if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max())):
                    return False, False
            learns = learns or self.learns(outputs, zeroed)
        return True, learns

    def run(self, which: int, state: dict[str, Tensor]) -> list[Tensor]:
        def double(tensor: Tensor) -> Tensor:
            return tensor.detach().cpu().double() if tensor.is_floating_point() else tensor.detach().cpu()

        args, kwargs = tree_map_only(Tensor, double, self.wide.origin.inputs)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), InDouble():
            torch.manual_seed(0)
            own = {id(value): value.clone() for value in state.values()}  # a buffer that the run changes must not change the caller's
            given = {key: value if value.requires_grad else own[id(value)] for key, value in state.items()}
            out = torch.func.functional_call(self.modules[which], given, args, kwargs, tie_weights=False)
        return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def zeroed(self, state: dict[str, Tensor], choice: Choice) -> dict[str, Tensor]:
        """The state with the unit silent, ready for gradients; tied names share one tensor."""
        aliases = self.wide.origin.structure.reading.aliases
        made = {id(value): value.clone() for value in state.values()}
        result = {key: made[id(value)] for key, value in state.items()}
        for part in choice:
            value = result[part.member.tensor]
            value[grid({part.member.axis: self.positions(part)}, value.shape, value.device)] = 0
        parameters = {aliases.get(key, key) for key, _ in self.modules[0].named_parameters(remove_duplicate=False)}
        for key, value in result.items():
            if aliases.get(key, key) in parameters and value.is_floating_point():
                value.requires_grad_()
        return result

    def learns(self, outputs: list[Tensor], state: dict[str, Tensor]) -> bool:
        """Whether a gradient reaches a coordinate of the unit."""
        generator = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            terms = [(out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outputs if out.requires_grad]
            total = sum(terms, torch.zeros(()))
        members = [m for m in self.wide.origin.structure.groups[self.name].members if state[m.tensor].requires_grad]
        if not terms or not members:
            return False
        gradients = torch.autograd.grad(total, [state[m.tensor] for m in members], allow_unused=True)
        for member, gradient in zip(members, gradients, strict=True):
            unit = torch.from_numpy(self.positions(Part(member)))
            if gradient is not None and bool((gradient.index_select(member.axis, unit) != 0).any()):
                return True
        return False

    def left(self, key: str) -> Places:
        """Where the narrow network's coordinates stand among the wide one's."""
        reading = self.wide.origin.structure.reading
        axes = reading.tensors.get(reading.aliases.get(key, key), [])
        return {
            i: np.flatnonzero(self.narrow.prediction.mask(axis)[self.wide.prediction.mask(axis)]) for i, axis in enumerate(axes) if axis
        }

    def positions(self, part: Part) -> Atoms:
        """Where the coordinates of a part stand in the wide network."""
        axis = self.wide.origin.structure.reading.tensors[part.member.tensor][part.member.axis]
        mask = self.wide.prediction.mask(axis)
        coordinates = [c for c in _coordinates(self.wide, self.name, part).get(self.unit, []) if mask[c]]
        return (np.cumsum(mask) - 1)[np.array(coordinates, dtype=np.int64)]


def _pair(network: Network, name: str) -> tuple[Network, Network] | None:
    """A network with few units of each group, so that a trial costs little, and the same without a unit of this one; with more units
    where so few cannot be."""
    groups = network.origin.structure.groups
    for few in (3, 4, 6, 0):  # 0: all
        try:
            wide = network.origin.silences.thin.get(few)
            if wide is None:
                living = {each: group.units[: few or None] if group.prunable else group.units for each, group in groups.items()}
                wide = network.with_living(living, "fresh")
                if few:
                    network.origin.silences.thin[few] = wide
            return wide, wide.shrink({name: wide.living[name][:-1]})
        except PlanError:
            continue
    return None
