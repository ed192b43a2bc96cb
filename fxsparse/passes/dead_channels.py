"""Which units can go without a trace: wherever channels are summed up, what a unit brings in must be a constant that a bias can take over.

Most operators treat each channel by itself; there a unit that goes changes nothing for the others. Only where an operator reduces over
channels does something of it stay, so only these calls are looked at. A call that is not understood keeps all units that it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fxsparse.axes.factors import Atoms, Axis
from fxsparse.axes.reader import CallReading, TapeReading
from fxsparse.axes.rules.creation import creation
from fxsparse.axes.rules.indexing import indexing
from fxsparse.axes.rules.movement import movement
from fxsparse.axes.rules.pointwise import pointwise
from fxsparse.axes.rules.reductions import reductions
from fxsparse.axes.rules.slicing import slicing
from fxsparse.axes.rules.windows import windows
from fxsparse.axes.site import dim_of
from fxsparse.channels.groups import Structure
from fxsparse.passes.bias_places import Bias, BiasPlaces, Sources
from fxsparse.passes.constant_rules import Step, channel_constants, is_pointwise
from fxsparse.passes.constant_values import Known, full_on
from fxsparse.passes.constants import Walk
from fxsparse.tracing.tape import Ref

Bools = npt.NDArray[np.bool_]
# Channel by channel; where one of these looks along an axis, its rule protects that axis.
BY_CHANNEL = {*pointwise.rules, *movement.rules, *slicing.rules, *creation.rules, *windows.rules, *indexing.rules, *reductions.rules}


@dataclass(frozen=True)
class Share:
    """What a channel with a constant adds to each output of a layer, and the axis of the layer's weight that loses it."""

    bias: Bias
    weight: str
    turned: bool  # the weight's inputs are its first axis
    axis: Axis  # the reduced axis
    outputs: Axis
    columns: Atoms  # coordinates on it
    terms: Tensor  # (outputs, columns), float64


@dataclass
class Findings:
    """What a look at all tapes found."""

    structure: Structure
    blocked: Bools  # class -> some call needs it
    reasons: dict[int, str] = field(default_factory=dict)  # class that is constant, and cannot go -> why
    shares: list[Share] = field(default_factory=list)
    _generators: dict[tuple[int, ...], Atoms] = field(default_factory=dict)

    def generators(self, axis: Axis) -> Atoms:
        """(coordinates, n): the classes that decide over each coordinate, filled up with -1."""
        key = tuple(factor.uid for factor in axis)
        if key not in self._generators:
            self._generators[key] = _generators(self.structure, axis)
        return self._generators[key]

    def block(self, axis: Axis, coordinates: Bools | None = None) -> None:
        """Keep the units behind these coordinates (all, if nothing is said)."""
        classes = self.generators(axis)
        chosen = classes if coordinates is None else classes[coordinates]
        self.blocked[chosen[chosen >= 0]] = True

    def explain(self, axis: Axis, coordinates: Bools, why: str) -> None:
        """Remember why units that are constant stay, should they stay."""
        for each in np.unique(self.generators(axis)[coordinates]).tolist():
            if each >= 0:
                self.reasons.setdefault(each, why)


def _generators(structure: Structure, axis: Axis) -> Atoms:
    solution = structure.solution
    total = math.prod(factor.size for factor in axis)
    columns: list[Atoms] = []
    inner = total
    for factor in axis:
        inner //= max(factor.size, 1)
        if factor.atoms is None:
            continue
        classes = structure.factor_classes(factor)
        if solution.derived[classes].any():
            parts = [np.unique(solution.generators(np.array([c]))) for c in classes.tolist()]
            width = max(map(len, parts))
            table = np.stack([np.pad(part, (0, width - len(part)), constant_values=-1) for part in parts])
        else:
            table = classes[:, None]
        outer = total // max(factor.size * inner, 1)
        columns.append(np.tile(np.repeat(table, inner, axis=0), (outer, 1)))
    return np.concatenate(columns, axis=1) if columns else np.full((total, 1), -1, dtype=np.int64)


@dataclass
class Analysis:
    """Looks at one network, whose tensors stand in the shapes of its tapes: removed units are zero everywhere."""

    structure: Structure
    skeleton: nn.Module
    sized: frozenset[tuple[str, str, str]]

    def __post_init__(self) -> None:
        self.places = BiasPlaces(self.structure.reading, self.skeleton)

    def look(self, tensors: Mapping[str, Tensor], new_biases: Mapping[str, Tensor]) -> Findings:
        """Walk all tapes."""
        found = Findings(self.structure, self.structure.solution.frozen.copy())
        for each in self.structure.reading.tapes:
            walk = Walk(each.tape, tensors, new_biases, self.sized)
            for step, reading in zip(walk.steps(), each.calls, strict=True):
                _Look(found, self.places, each, step, reading).run()
        _settle(found)
        return found


def _settle(found: Findings) -> None:
    """A layer that is called several times has one bias: constants that differ from call to call cannot go there."""
    by_bias: dict[str, list[Share]] = {}
    for share in found.shares:
        by_bias.setdefault(share.bias.key, []).append(share)
    for shares in by_bias.values():
        first = shares[0]
        for other in shares[1:]:
            if not _same(first, other):
                why = f"{first.bias.owner} is called several times, with other constants"
                for share in (first, other):
                    chosen = np.zeros(math.prod(f.size for f in share.axis), dtype=bool)
                    chosen[share.columns] = True
                    found.block(share.axis, chosen)
                    found.explain(share.axis, chosen, why)


def _same(a: Share, b: Share) -> bool:
    return a.weight == b.weight and np.array_equal(a.columns, b.columns) and torch.equal(a.terms, b.terms)


@dataclass
class _Look:
    """One call."""

    found: Findings
    places: BiasPlaces
    tape: TapeReading
    step: Step
    reading: CallReading

    @property
    def sources(self) -> Sources:
        return self.places.sources(self.tape)

    def run(self) -> None:
        call, name = self.step.call, self.step.call.name
        if self.reading.rule is None or self.reading.rule.name not in (name, name.rstrip("_")):
            return self.keep_all("")
        if name == "aten.convolution":
            return self.convolution()
        if name in ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm"):
            return self.matrices()
        if name == "aten.sum":
            return self.sum()
        if "batch_norm" in name or name in BY_CHANNEL or name.rstrip("_") in BY_CHANNEL or is_pointwise(call):
            return None
        norm = "norm" in name
        return self.keep_all("a norm takes its statistics over it" if norm else f"{name.partition('.')[2]} reads it")

    def axes(self, ref: Ref) -> list[Axis]:
        return self.tape.axes[ref.id]

    def keep_all(self, why: str) -> None:
        """A call that is not understood: what is constant in it cannot go either."""
        for ref in self.step.tensors:
            x, shape = self.step.look(ref), self.step.shape(ref)
            for position, axis in enumerate(self.axes(ref)):
                self.found.block(axis)
                if why and ref.id not in self.tape.weights and any(factor.atoms is not None for factor in axis):
                    self.found.explain(axis, _along(x, shape, position, x.known), why)

    def sum(self) -> None:
        """A summand may go when it is zero."""
        ref = self.step.arg("self")
        x, shape, dims = self.step.look(ref), self.step.shape(ref), self.step.arg("dim")
        chosen = range(len(shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        for dim in (dim_of(d, len(shape)) for d in chosen):
            axis, zero = self.axes(ref)[dim], _along(x, shape, dim, x.zero)
            self.found.block(axis, ~zero)
            self.found.explain(axis, _along(x, shape, dim, x.known) & ~zero, "a sum over channels would miss it")

    # ---- layers -------------------------------------------------------------------------------------------------------------------

    def matrices(self) -> None:
        names = {"aten.mm": ("self", "mat2"), "aten.bmm": ("self", "mat2"), "aten.addmm": ("mat1", "mat2")}
        a, b = (self.step.arg(n) for n in names.get(self.step.call.name, ("batch1", "batch2")))
        inner = self.step.shape(a)[-1]
        axis = self.axes(a)[-1]
        x, w = self.step.look(a), self.step.look(b)
        zero: Bools = _along(x, self.step.shape(a), len(x.shape) - 1, x.zero)
        known = _along(x, self.step.shape(a), len(x.shape) - 1, x.known)
        if b.id in self.sources and len(w.shape) == 2 and x.shape[0] == 1 and b.id in self.tape.weights:
            w = full_on(w, self.step.shape(b), [0, 1])
            values = full_on(x, (1, inner), [1]).value.reshape(-1)
            self.layer(axis, self.axes(b)[1], values, zero, known, known, w.moved(lambda t: t.t()), b, "")
            return
        dead = _along(w, self.step.shape(b), len(w.shape) - 2, w.zero)
        if b.id in self.sources and len(w.shape) == 2:
            self.pairs(axis, self.axes(b)[1], ~(zero[None, :] | full_on(w, self.step.shape(b), [0, 1]).zero.t().numpy()))
            return
        needed = np.logical_not(np.logical_or(zero, dead)).astype(np.bool_)
        self.found.block(axis, needed)

    def convolution(self) -> None:
        step = self.step
        ref, weight, groups = step.arg("input"), step.arg("weight"), step.arg("groups")
        axis, outputs = self.axes(ref)[1], self.axes(step.call.results[0])[1]
        channels = channel_constants(step)
        w = step.look(weight)
        if channels is None or len(w.shape) != len(step.result) or w.shape != step.shape(weight):
            return self.found.block(axis)
        value, known, usable = channels
        zero = (known & (value == 0)).numpy()
        transposed = bool(step.arg("transposed"))
        meets = _between_all((~w.zero).flatten(2).any(2), groups, transposed)
        summed = Known(
            _between_all(w.value.flatten(2).sum(2), groups, transposed), ~_between_all(~w.known.flatten(2).all(2), groups, transposed)
        )
        if step.arg("transposed"):
            why = f"{self.name()} is a transposed convolution, whose border would miss a part of it"
        else:
            why = f"{self.name()} pads with zeros, and its constant is not zero"
        return self.layer(axis, outputs, value, zero, usable.numpy(), known.numpy(), summed, weight, why, meets)

    def name(self) -> str:
        return self.step.call.owner.module or self.step.call.owner.node or "the forward pass"

    def layer(
        self, axis: Axis, outputs: Axis, values: Tensor, zero: Bools, usable: Bools, known: Bools, weight: Known, ref: Ref,
        why: str, meets: Tensor | None = None,
    ) -> None:  # fmt: skip
        """A layer with a weight (outputs, inputs): each input is zero, or meets zeros, or is a constant for the bias, or must stay."""
        lives: Bools = (~weight.zero if meets is None else meets).numpy() & ~zero[None, :]
        target = self.places.find(self.step, ref)
        constant = usable & weight.known.all(0).numpy() & lives.any(0)
        if isinstance(target, Bias):
            columns = np.flatnonzero(constant)
            index = torch.from_numpy(columns)
            terms = weight.value[:, index].double() * values[index].double()
            key, turned = self.sources[ref.id]
            matrix = self.step.call.name != "aten.convolution"  # its second factor holds the inputs first
            self.found.shares.append(Share(target, key, matrix and not turned, axis, outputs, columns, terms))
            if len(columns):
                lives[:, columns] = False
        else:
            self.found.explain(axis, constant, target)
        self.found.explain(axis, known & ~usable & lives.any(0), why)
        self.pairs(axis, outputs, lives)

    def pairs(self, axis: Axis, outputs: Axis, needed: Bools) -> None:
        """Keep the inputs that an output needs, unless that output goes with the input."""
        into, out = self.found.generators(axis), self.found.generators(outputs)
        if not np.intersect1d(into[into >= 0], out[out >= 0]).size:
            return self.found.block(axis, np.asarray(needed.any(0)))
        for column in range(into.shape[1]):
            classes = into[:, column]
            together = np.zeros_like(needed)
            for other in range(out.shape[1]):
                together |= (out[:, other][:, None] == classes[None, :]) & (classes >= 0)[None, :]
            kept = (needed & ~together).any(0) & (classes >= 0)
            self.found.blocked[classes[kept]] = True
        return None


def _along(x: Known, shape: tuple[int, ...], dim: int, condition: Tensor) -> Bools:
    """Which coordinates of one axis fulfil a condition wherever they occur."""
    held = condition
    for other in range(len(shape)):
        if other != dim:
            held = held.all(other, keepdim=True)
    found: Bools = held.reshape(-1).expand(shape[dim]).numpy() if held.numel() == 1 else held.reshape(-1).numpy()
    return found


def _between_all(matrix: Tensor, groups: int, transposed: bool) -> Tensor:
    """What a grouped kernel says of the pairs in each group, as (outputs, inputs) of all: zero, or false, between groups."""
    if transposed:
        matrix = matrix.reshape(groups, -1, matrix.shape[1]).transpose(1, 2).flatten(0, 1)
    if groups == 1:
        return matrix
    outputs, inner = matrix.shape
    made = matrix.new_zeros(groups, outputs // groups, groups, inner)
    index = torch.arange(groups)
    made[index, :, index] = matrix.reshape(groups, outputs // groups, inner)
    return made.reshape(outputs, groups * inner)
