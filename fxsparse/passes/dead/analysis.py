"""Which units can go without a trace: wherever channels are summed up, what a unit brings in must be a constant that a bias can take over.

Most operators treat each channel by itself; there a unit that goes changes nothing for the others. Only where an operator reduces over
channels does something of it stay, so only these calls are looked at. A call that is not understood keeps all units that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fxsparse.axes.by_hand import MOMENTS
from fxsparse.axes.factors import Atoms, Axis, Bools
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
from fxsparse.passes.constants.layers import channel_constants
from fxsparse.passes.constants.rules import is_pointwise
from fxsparse.passes.constants.step import Step
from fxsparse.passes.constants.values import Known, full_on
from fxsparse.passes.constants.walk import Walk
from fxsparse.passes.dead.bias_places import Bias, BiasPlaces, Sources
from fxsparse.passes.dead.carriers import settle_padded
from fxsparse.passes.dead.findings import Findings, Padded, Share, settle
from fxsparse.tracing.tape import Call, Ref, Tape

# Channel by channel; where one of these looks along an axis, its rule protects that axis, or says that it takes statistics of it.
BY_CHANNEL = {*pointwise.rules, *movement.rules, *slicing.rules, *creation.rules, *windows.rules, *indexing.rules, *reductions.rules}
STATISTICS = "a norm takes its statistics over it"


@dataclass
class Analysis:
    """Looks at one network, whose tensors stand in the shapes of its tapes: removed units are zero everywhere."""

    structure: Structure
    skeleton: nn.Module
    sized: Callable[[Tape, Call], bool]

    def __post_init__(self) -> None:
        self.places = BiasPlaces(self.structure.reading, self.skeleton)

    def look(self, tensors: Mapping[str, Tensor], new_biases: Mapping[str, Tensor]) -> Findings:
        """Walk all tapes."""
        frozen = self.structure.solution.frozen
        found = Findings(self.structure, frozen.copy(), np.zeros_like(frozen), np.zeros_like(frozen))
        reading = self.structure.reading
        for uid in reading.book.statistics:
            found.block((reading.algebra.factors[uid],))
        for each in reading.tapes:
            walk = Walk(each.tape, tensors, new_biases, self.sized)
            for step, call in zip(walk.steps(), each.calls, strict=True):
                _Look(found, self.places, each, step, call).run()
        settle(found)
        settle_padded(found, self.places)
        return found


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
        if name in ("aten.sum", "aten.linalg_vector_norm", "aten.norm"):
            return self.sum()
        if name == "aten.native_group_norm":
            return self.group_norm()
        if "batch_norm" in name:
            return self.batch_norm()
        if name in MOMENTS:
            return self.moments()
        if name in BY_CHANNEL or name.rstrip("_") in BY_CHANNEL or is_pointwise(call):
            return None
        norm = "norm" in name
        return self.keep_all(STATISTICS if norm else f"{name.partition('.')[2]} reads it")

    def axes(self, ref: Ref) -> list[Axis]:
        return self.tape.axes[ref.id]

    def keep_all(self, why: str) -> None:
        """A call that is not understood: what is constant in it cannot go either."""
        for ref in self.step.tensors:
            x, shape = self.step.look(ref), self.step.shape(ref)
            for position, axis in enumerate(self.axes(ref)):
                self.found.block(axis)
                if why and ref.id not in self.tape.weights and any(factor.atoms is not None for factor in axis):
                    self.found.explain(axis, _along(x, shape, position, x.known), why, last=True)

    def batch_norm(self) -> None:
        """Each channel has statistics of its own. Those of each batch, as an instance norm takes them, are not known beforehand."""
        if self.step.tape.mode == "eval" and self.step.arg("training", False):
            ref = self.step.arg("input")
            x = self.step.look(ref)
            known = _along(x, self.step.shape(ref), 1, x.known)
            self.found.explain(self.axes(ref)[1], known, "the norm behind it takes the statistics of each input", last=True)

    def group_norm(self) -> None:
        """A whole group may go, as each has statistics of its own; a channel may not leave its group."""
        ref = self.step.arg("input")
        axis, x, shape = self.axes(ref)[1], self.step.look(ref), self.step.shape(ref)
        known = _along(x, shape, 1, x.known)
        classes = self.found.generators(axis)
        for rows in np.split(np.arange(len(classes)), self.step.arg("group")):
            whole = set.intersection(*(set(line[line >= 0].tolist()) for line in classes[rows]))
            single = np.setdiff1d(classes[rows][classes[rows] >= 0], list(whole))
            self.found.blocked[single] = True
            for each in single.tolist():
                mine = known[(classes == each).any(1)]
                if mine.any():
                    self.found.reasons.setdefault(
                        each, STATISTICS if mine.all() else f"{STATISTICS}, and only in some groups is it constant"
                    )
                    self.found.ends.add(each)

    def moments(self) -> None:
        """Of a norm that is written out by hand; elsewhere the axes of a mean are protected."""
        for axis, x, shape, dim in self.reduced():
            self.found.explain(axis, _along(x, shape, dim, x.known), STATISTICS, last=True)

    def sum(self) -> None:
        """A summand may go when it is zero, and so may one of the powers in a norm."""
        for axis, x, shape, dim in self.reduced():
            zero = _along(x, shape, dim, x.zero)
            self.found.block(axis, ~zero)
            self.found.explain(axis, _along(x, shape, dim, x.known) & ~zero, "a sum over channels would miss it")

    def reduced(self) -> Iterator[tuple[Axis, Known, tuple[int, ...], int]]:
        """The axes that a reduction goes over, what is known of its tensor, its shape, and which of its axes that is."""
        ref = self.step.arg("self")
        x, shape, dims = self.step.look(ref), self.step.shape(ref), self.step.arg("dim", None)
        chosen = range(len(shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        for dim in (dim_of(d, len(shape)) for d in chosen):
            yield self.axes(ref)[dim], x, shape, dim

    # ---- layers -------------------------------------------------------------------------------------------------------------------

    def matrices(self) -> None:
        names = {"aten.mm": ("self", "mat2"), "aten.bmm": ("self", "mat2"), "aten.addmm": ("mat1", "mat2")}
        a, b = (self.step.arg(n) for n in names.get(self.step.call.name, ("batch1", "batch2")))
        inner = self.step.shape(a)[-1]
        axis = self.axes(a)[-1]
        x, w = self.step.look(a), self.step.look(b)
        zero: Bools = _along(x, self.step.shape(a), len(x.shape) - 1, x.zero)
        known = _along(x, self.step.shape(a), len(x.shape) - 1, x.known)
        self.explain_norm(b, axis, known)
        if b.id in self.sources and len(w.shape) == 2 and x.shape[0] == 1 and b.id in self.tape.weights:
            w = full_on(w, self.step.shape(b), [0, 1])
            values = full_on(x, (1, inner), [1]).value.reshape(-1)
            self.layer(axis, self.axes(b)[1], values, zero, known, known, w.moved(lambda t: t.t()), b, "")
            return
        dead = _along(w, self.step.shape(b), len(w.shape) - 2, w.zero)
        if b.id in self.sources and len(w.shape) == 2:
            self.pairs(
                axis, self.axes(b)[1], ~(zero[None, :] | full_on(w, self.step.shape(b), [0, 1]).zero.t().numpy()), self.found.blocked
            )
            return
        needed = np.logical_not(np.logical_or(zero, dead)).astype(np.bool_)
        self.found.block(axis, needed)

    def convolution(self) -> None:
        step = self.step
        ref, weight, groups = step.arg("input"), step.arg("weight"), step.arg("groups")
        axis, outputs = self.axes(ref)[1], self.axes(step.call.results[0])[1]
        channels = channel_constants(step)
        if channels is not None:
            self.explain_norm(weight, axis, channels[1].numpy())
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
        moves = groups == 1 and not transposed and any(step.arg("padding"))
        return self.layer(axis, outputs, value, zero, usable.numpy(), known.numpy(), summed, weight, why, meets, moves)

    def explain_norm(self, weight: Ref, axis: Axis, known: Bools) -> None:
        """Of constants that meet a weight which is made with the norm of another."""
        statistics = self.found.structure.reading.book.statistics
        if weight.id in self.tape.weights and any(factor.uid in statistics for each in self.axes(weight) for factor in each):
            self.found.explain(axis, known, f"the weight of {self.name()} is normalised over it", last=True)

    def name(self) -> str:
        return self.step.call.owner.module or self.step.call.owner.node or "the forward pass"

    def layer(
        self, axis: Axis, outputs: Axis, values: Tensor, zero: Bools, usable: Bools, known: Bools, weight: Known, ref: Ref,
        why: str, meets: Tensor | None = None, moves: bool = False,
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
        self.pairs(axis, outputs, lives & ~known[None, :], self.found.alive)
        border = known & ~usable & lives.any(0)
        self.found.explain(axis, border, why)
        if moves and ref.id in self.sources:
            classes = _single(self.found.generators(axis))
            self.found.padded.append(Padded(self.sources[ref.id][0], classes, values, known))
            border &= classes >= 0
            self.pairs(axis, outputs, lives & border[None, :], self.found.moving)
            lives[:, border] = False
        self.pairs(axis, outputs, lives, self.found.blocked)

    def pairs(self, axis: Axis, outputs: Axis, needed: Bools, marks: Bools) -> None:
        """Mark the inputs that an output needs, unless that output goes with the input."""
        into, out = self.found.generators(axis), self.found.generators(outputs)
        apart = not np.intersect1d(into[into >= 0], out[out >= 0]).size
        for column in range(into.shape[1]):
            classes = into[:, column]
            kept = needed if apart else needed & ~_together(out, classes)
            marks[classes[kept.any(0) & (classes >= 0)]] = True


def _together(outputs: Atoms, classes: Atoms) -> Bools:
    """(outputs, inputs): pairs that go together."""
    found = np.zeros((len(outputs), len(classes)), dtype=np.bool_)
    for column in outputs.T:
        found |= (column[:, None] == classes[None, :]) & (classes >= 0)[None, :]
    return found


def _single(generators: Atoms) -> Atoms:
    """The class of each coordinate, where it is one, and has no other coordinate."""
    classes = np.where((generators >= 0).sum(1) == 1, generators.max(1), -1)
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    found: Atoms = np.where(counts[inverse] == 1, classes, -1)
    return found


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
