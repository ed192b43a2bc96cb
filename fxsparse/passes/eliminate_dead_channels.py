"""The pass `eliminate-dead-channels`: channels that sparsity has silenced are removed for real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fxsparse.errors import PassError, PlanError
from fxsparse.network import Network
from fxsparse.passes.add_bias import AddBias
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.choosing import aligned_steps
from fxsparse.passes.dead.search import Search
from fxsparse.passes.equality import require_same_function, require_values

Living = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class EliminateDeadChannels(Pass):
    """Remove the units that say nothing: those that are constant, and those that nobody listens to.

    A unit is constant when all the weights that make it are zero, or meet only constants: what is left of it is a bias, a norm's shift, and
    what functions make of them. Its constant goes into the bias of the layers that read it; where they have none, into the running mean of
    the norm behind them, or else into a new bias. In front of a convolution that pads with zeros a constant is no bias: there, of all
    constant units of a group one stays and carries the others. A unit to which only zero weights listen goes as it is. What has gone may
    silence others, so the search is repeated until nothing more is found. `exclude` names groups that stay whole, by pattern. With `align`,
    as many dead units stay as make widths multiples of it: odd widths can cost an engine more than the units do.

    Assumes eval semantics for norms and dropout, and activations that are finite. Only zeros that stand in the weights count; see
    `apply-masks`.

    Guarantees the same function, checked in float64 on the example inputs. Left alone, with the reason: channels over which a norm takes
    its statistics (of a group norm, whole groups may go), constants in front of depthwise and transposed convolutions with borders, the
    last unit of a group. What is grown back later says nothing either: the weights that would read a constant that has moved are zero.

    Example: `mask{sparsity=0.98},eliminate-dead-channels`
    """

    name: ClassVar[str] = "eliminate-dead-channels"
    exclude: tuple[str, ...] = ()
    align: int = 1

    def __post_init__(self) -> None:
        if self.align < 1:
            raise PassError("align of eliminate-dead-channels is at least 1")

    def requires(self, network: Network, context: Context) -> None:
        require_values(self.name, network)

    def run(self, network: Network, context: Context) -> PassResult:
        refused: dict[str, str] = {}
        while True:
            search = Search(network, (*self.exclude, *refused))
            search.run()
            search.living = _even(network, search.living, self.align)
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


def _even(network: Network, living: Living, align: int) -> dict[str, tuple[int, ...]]:
    """The living units, and so many of those that could go that widths keep to multiples. Nothing reads what these say."""
    steps = aligned_steps(network, [group for group in network.groups if group.prunable], align)
    made = dict(living)
    for name, step in steps.items():
        before, left = network.living[name], set(living[name])
        spare = [unit for unit in before if unit not in left]
        missing = -len(left) % step
        made[name] = tuple(unit for unit in before if unit in left or unit in set(spare[:missing]))
    return made


def _without(network: Network, search: Search) -> Network:
    """The network after a search: biases where constants need them, constants in the biases, dead units gone."""
    layers = tuple(sorted(search.new_biases))
    made = AddBias(layers)(network).network if layers else network
    if search.shares or search.moves:
        made = search.write(made.with_living(made.living))
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
