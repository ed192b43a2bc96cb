"""Reads tapes with the table of rules: every tensor gets its axes, every call its size literals.

The soundness guarantee is here: an operator without a rule, a rule that raises, a result whose shape does not match, all freeze every
axis they touch, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fxsparse.axes.factors import Algebra, Atoms, Axis, Factor, size
from fxsparse.axes.loose import bind_what_cannot_be_gathered
from fxsparse.axes.rules import RULES
from fxsparse.axes.rules.creation import UNREAD
from fxsparse.axes.rules.movement import movement
from fxsparse.axes.rules.pointwise import TEXT as POINTWISE_TEXT
from fxsparse.axes.rules.pointwise import elementwise
from fxsparse.axes.rules.slicing import slicing
from fxsparse.axes.site import Book, Contraction, Site, same_size
from fxsparse.axes.table import Rule, aten
from fxsparse.tracing.tape import Call, Mode, Ref, Tape

UNUSED = "no recorded call uses it"
KEPT = "plain Python code keeps it for its next call"
GUESSED = "Python code that could not be traced may cut it by the value of a tensor"
CUTS = (slicing.rules.keys() | movement.rules.keys()) - set(aten("cat concat stack"))
HINT = "teach it with fxsparse.register_rule"


@dataclass(slots=True)
class CallReading:
    """What a rule said of one call."""

    rule: Rule | None
    movement: bool
    literals: dict[str, Any]
    contractions: list[Contraction]


@dataclass(slots=True)
class TapeReading:
    tape: Tape
    axes: dict[int, list[Axis]] = field(default_factory=dict)
    calls: list[CallReading] = field(default_factory=list)
    weights: set[int] = field(default_factory=set)  # values that depend on parameters and buffers alone


@dataclass
class Reading:
    """The axes of everything, over all tapes."""

    book: Book
    tapes: list[TapeReading]
    tensors: dict[str, list[Axis]]  # first name of each parameter and buffer -> its axes
    aliases: dict[str, str]  # every other name -> its first name
    unknown: dict[str, str]  # operator -> why it is not understood

    @property
    def algebra(self) -> Algebra:
        return self.book.algebra

    @cached_property
    def factors(self) -> dict[int, Factor]:
        """Every factor of any tensor on any tape, by number."""
        of_values = [axes for each in self.tapes for axes in each.axes.values()]
        return {factor.uid: factor for axes in (*self.tensors.values(), *of_values) for axis in axes for factor in axis}


def rule_for(call: Call) -> Rule | None:
    """The rule of a call: by name, by torch's pointwise tag, or that of the operator it does in place."""
    name = call.name
    rule = RULES.find(name)
    if rule is None and torch.Tag.pointwise in call.op.tags:
        return Rule(name, POINTWISE_TEXT, elementwise)
    if rule is None and name.endswith("_"):
        rule = RULES.find(name.rstrip("_"))
        if rule is None:
            base = getattr(getattr(torch.ops, call.op.namespace), call.op._schema.name.partition("::")[2].rstrip("_"), None)
            if base is not None and any(torch.Tag.pointwise in getattr(base, o).tags for o in base.overloads()):
                return Rule(name, POINTWISE_TEXT, elementwise)
    return rule


class _TapeReader:
    def __init__(self, tape: Tape, reading: Reading) -> None:
        self.tape = tape
        self.reading = reading
        self.book = reading.book
        self.algebra = reading.book.algebra
        self.result = TapeReading(tape)

    def axes_of(self, ref: Ref) -> list[Axis]:
        axes = self.result.axes.get(ref.id)
        if axes is None:
            axes = self.result.axes[ref.id] = self.first_axes(ref)
        return axes

    def first_axes(self, ref: Ref) -> list[Axis]:
        value = self.tape.values[ref.id]
        if value.key is not None:
            self.result.weights.add(ref.id)
            known = self.reading.tensors.get(value.key)
            if known is None:
                known = self.reading.tensors[value.key] = [self.algebra.fresh(n) for n in value.shape]
            return known
        reason = {"input": "the network's input", "constant": "a constant of the forward pass"}.get(value.origin, "an unread result")
        return [self.algebra.free(n, reason) for n in value.shape]

    def run(self) -> TapeReading:
        for call in self.tape.calls:
            self.result.calls.append(self.read(call))
        for ref in self.tape.inputs:  # those that no call reads, too
            self.axes_of(ref)
        for ref in self.tape.outputs:
            for axis in self.axes_of(ref):
                self.algebra.freeze(axis, "the network's output")
        for ref in self.tape.kept:
            for axis in self.axes_of(ref):
                self.algebra.freeze(axis, KEPT)
        return self.result

    def read(self, call: Call) -> CallReading:
        site = Site(call, self.tape, self.book, self.axes_of, lambda ref: ref.id in self.result.weights)
        tensors = site.tensors
        for ref in tensors:
            self.axes_of(ref)
        rule = rule_for(call)
        try:
            if rule is None:
                raise NotImplementedError(f"no rule for the operator {call.name.replace('.', '::', 1)}; {HINT}")
            rule.apply(site)
            for index, ref in enumerate(call.results):
                if isinstance(ref, Ref) and not same_size(site.results[index], self.tape.shape(ref)):
                    raise ValueError(f"its rule gives {site.results[index]} for a result of shape {self.tape.shape(ref)}")
        except Exception as error:  # whatever goes wrong in a rule, the answer is the same: protect everything it touches
            self.refuse(call, site, tensors, error)
            return CallReading(None, False, {}, [])
        self.write(call, site, tensors)
        return CallReading(rule, site.movement, site.literals, site.contractions)

    def refuse(self, call: Call, site: Site, tensors: tuple[Ref, ...], error: Exception) -> None:
        known = isinstance(error, NotImplementedError)
        reason = str(error) if known else f"the rule of {call.name.replace('.', '::', 1)} failed: {type(error).__name__}: {error}"
        self.reading.unknown.setdefault(call.name, reason)
        for ref in tensors:
            for axis in self.axes_of(ref):
                self.algebra.freeze(axis, reason)
        site.results = {
            index: [self.algebra.free(n, reason) for n in self.tape.shape(ref)]
            for index, ref in enumerate(call.results)
            if isinstance(ref, Ref)
        }
        self.write(call, site, tensors)

    def write(self, call: Call, site: Site, tensors: tuple[Ref, ...]) -> None:
        only_weights = bool(tensors) and call.name not in UNREAD and all(ref.id in self.result.weights for ref in tensors)
        for index, ref in enumerate(call.results):
            if not isinstance(ref, Ref):
                continue
            before = self.result.axes.get(ref.id)
            if before is not None and ref in tensors:  # in place: the same tensor, before and after
                for old, new in zip(before, site.results[index], strict=True):
                    self.algebra.unify(old, new)
            else:
                self.result.axes[ref.id] = site.results[index]
                if only_weights:
                    self.result.weights.add(ref.id)


def read(tapes: tuple[Tape, ...]) -> Reading:
    """Read every tape into one book: parameters and buffers are the same tensors in all of them."""
    reading = Reading(Book(Algebra()), [], {}, {}, {})
    for tape in tapes:
        reading.tapes.append(_TapeReader(tape, reading).run())
        for name, ref in tape.keys.items():
            first = tape.values[ref.id].key
            assert first is not None
            if first not in reading.tensors:
                reading.tensors[first] = [reading.algebra.fresh(n) for n in tape.shape(ref)]
            if name != first:
                reading.aliases[name] = first
    _meet_demands(reading)
    _protect_unused(reading)
    _protect_left_out(reading)
    _protect_guessed_cuts(reading)
    _protect_counted_padding(reading)
    bind_what_cannot_be_gathered(reading.algebra, reading.tapes)
    return reading


def _meet_demands(reading: Reading) -> None:
    for demand in dict.fromkeys(demand for each in reading.tapes for demand in each.tape.demands):
        axes = [reading.tensors.get(reading.aliases.get(key, key)) for key in (demand.tensor, demand.other)]
        if axes[0] is None or axes[1] is None:
            continue  # computed by a parametrization
        whole, other = axes[0][demand.axis], axes[1][demand.other_axis]
        for part in range(demand.parts):
            reading.algebra.unify(reading.algebra.cut(whole, part * size(other), (part + 1) * size(other)), other)


def _protect_unused(reading: Reading) -> None:
    read_in: dict[Mode, set[str | None]] = {}  # whatever the answers were
    for each in reading.tapes:
        read = read_in.setdefault(each.tape.mode, set())
        read.update(each.tape.values[ref.id].key for call in each.tape.calls for ref in call.reads)
    for key, axes in reading.tensors.items():
        if not any(key in read for read in read_in.values()):
            for axis in axes:
                reading.algebra.freeze(axis, UNUSED)
    whole = _by_one_graph(reading.tapes[0].tape)  # in eval mode, which a proof runs
    for each in reading.tapes:
        if _by_one_graph(each.tape):
            continue
        read = read_in[each.tape.mode]
        waiting = [key for key, axes in reading.tensors.items() if axes and key not in read]  # a counter without axes waits for nothing
        for key in waiting:  # a layer that is left out at random, say: when it runs, it is as the user wrote it
            for axis in reading.tensors[key]:
                reading.algebra.freeze(axis, f"{UNUSED} in {each.tape.mode} mode, where Python code could not be traced")
        if each.tape.chance or whole:  # nothing proves what this code does another time
            _protect_branches(each, reading.algebra, "which may do something else with it another time")
        elif waiting:
            _protect_branches(each, reading.algebra, f"and {waiting[0]} may be used in a branch not taken")


def _by_one_graph(tape: Tape) -> bool:
    """Whether the model was traced as a whole, in the mode of this tape."""
    return all(call.owner.graph == "" for call in tape.calls)


def _protect_left_out(reading: Reading) -> None:
    """What every recorded call slices away from a weight, as positions beyond the length of the example: other inputs may ask for it."""
    algebra = reading.algebra
    if not algebra.left_out:
        return
    used = np.zeros(algebra.atom_count, dtype=bool)
    whole: set[int] = set()  # factors all of which is used
    for each in reading.tapes:
        for call in each.tape.calls:
            made = [ref for ref in call.makes if ref.id in each.weights]
            if not made:
                whole.update(factor.uid for factor in _factors(each, call.reads))
            elif call.name not in slicing.rules:
                handed_on = _atoms(each, made)  # used by those who read it
                before = used[handed_on]
                used[_atoms(each, call.reads)] = True
                used[handed_on] = before
        whole.update(factor.uid for factor in _factors(each, each.tape.outputs))
    for uid in whole:
        if (atoms := algebra.factors[uid].atoms) is not None:
            used[atoms] = True
    for factor, rest in algebra.left_out:
        if factor.atoms is not None and (waiting := rest & ~used[factor.atoms]).any():
            algebra.freeze_atoms(factor, waiting, UNUSED)


def _protect_guessed_cuts(reading: Reading) -> None:
    """Untraced code that has asked for a tensor's value holds a made-up number from then on, and may cut by it: `x[:, :int(n)]`."""
    for each in reading.tapes:
        guessed = False
        for call in each.tape.calls:
            if call.owner.graph is not None:
                continue
            guessed = guessed or call.name == "aten._local_scalar_dense"
            if guessed and call.name in CUTS:
                kept = {axis for ref in call.makes for axis in each.axes[ref.id]}
                for axis in (axis for ref in call.reads for axis in each.axes[ref.id] if axis not in kept):
                    reading.algebra.freeze(axis, GUESSED)


def _protect_counted_padding(reading: Reading) -> None:
    """What a norm counts may be padding at other places of the same tensor, as where a token stands beside padded channels."""
    algebra = reading.algebra
    padding = [atoms for uid in reading.book.padding if (atoms := algebra.factors[uid].atoms) is not None]
    if not padding or not reading.book.counted:
        return
    classes = algebra.classes()
    padded = np.zeros(algebra.atom_count, dtype=bool)
    padded[classes[np.concatenate(padding)]] = True
    for uid, why in reading.book.counted.items():
        factor = algebra.factors[uid]
        if factor.atoms is not None and (counted := padded[classes[factor.atoms]]).any():
            algebra.freeze_atoms(factor, counted, why)


def _factors(reading: TapeReading, tensors: Iterable[Ref]) -> Iterator[Factor]:
    return (factor for ref in tensors for axis in reading.axes.get(ref.id, ()) for factor in axis)


def _atoms(reading: TapeReading, tensors: Iterable[Ref]) -> Atoms:
    return np.concatenate([np.zeros(0, np.int64), *(f.atoms for f in _factors(reading, tensors) if f.atoms is not None)])


def _protect_branches(reading: TapeReading, algebra: Algebra, why: str) -> None:
    """Python code that was not traced may hold branches that the recorded run did not take, and any value that it has in its hands may go
    there. Where a tensor waits unused, it may belong to one of them."""
    graphs: dict[int, set[str | None]] = {}
    for call in reading.tape.calls:
        for ref in (*call.reads, *call.makes[:1]):  # others are the kernel's own
            graphs.setdefault(ref.id, set()).add(call.owner.graph)
    for number, places in graphs.items():
        in_hand = None in places or len(places) > 1 or number in reading.tape.handed
        if in_hand and reading.tape.values[number].key is None:
            for axis in reading.axes.get(number, ()):
                algebra.freeze(axis, f"it passes through Python code that could not be traced, {why}")
