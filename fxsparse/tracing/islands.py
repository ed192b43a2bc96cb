"""Models that cannot be traced as a whole: the user's Python stays as a shell, and the largest parts that can be traced are graphs."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_leaves

from fxsparse.errors import TraceError
from fxsparse.tracing.copies import meta_copy
from fxsparse.tracing.leaves import is_leaf
from fxsparse.tracing.modes import EVAL_ALONE, both_modes
from fxsparse.tracing.questions import LOOKS, NO
from fxsparse.tracing.recording import is_whole, record, record_in_place
from fxsparse.tracing.tape import Answers, Mode, Question, Tape
from fxsparse.tracing.traced_module import TracedModule, as_plain, as_traced, flatten_call, original_class

TURNS = range(1, 9)  # of other luck, by which the same parts may be called in another way
RECORDINGS = 12  # so many in which some of a model's questions are answered with yes: one of them, then two, and so on
NUMBERS = (0, 1000, -1000)  # what it is told, beside 1, where it asks how much something is
GIVEN = Answers(given=True)
LENGTH = 8  # times as many calls as with the first answers, and the code counts to what it was told


Originals = dict[tuple[Mode, Answers], Tape]


@dataclass
class _Call:
    args: Any
    kwargs: Any
    spec: TreeSpec
    constants: list[Any]


@dataclass
class Islands:
    """The search for the parts. `first` is the mode in which the shell must run: eval, with train mode as well if it runs; or train mode
    alone, where eval mode could be traced as a whole."""

    shell: nn.Module
    args: Any
    kwargs: Mapping[str, Any]
    why: str
    first: Mode = "eval"
    train: bool = True  # whether train mode is asked for
    trains: bool = False  # the untouched model runs in train mode on these inputs
    calls: dict[str, list[_Call]] = field(default_factory=dict)
    found: dict[str, TracedModule] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> tuple[Tape, ...]:
        """Turns parts of the shell into traced modules, in place, and gives the tapes of what came of it: of each mode, and of what the
        code does where it is told something else."""
        try:
            originals = self.record_originals()
        except TraceError as error:
            if LOOKS not in self.why:
                raise
            raise TraceError(f"{self.why}, and cannot go on without it; compute it before the call, and pass it as an argument") from error
        self.trains = any(mode == "train" for mode, _ in originals)
        self.visit_parts("", self.shell)
        return self.settle(originals)

    def record_originals(self) -> Originals:
        """The tapes of the untouched model in each mode, and what each submodule is called with."""
        plain = self.record_plainly()
        base = plain.answers
        tapes = {(self.first, base): plain}
        for turn in TURNS if plain.chance else ():
            with contextlib.suppress(TraceError):
                self.record_calls(self.first, base, turn=turn)
        if self.first == "eval" and self.train:
            with contextlib.suppress(TraceError):  # a detection model wants targets in train mode; `settle` says so
                tapes["train", base] = record(self.shell, self.args, self.kwargs, "train", base)
        for mode, tape in [(mode, tape) for (mode, _), tape in tapes.items()]:
            waiting = deque(blunt_answers(tape))
            left = len(waiting) + RECORDINGS
            waiting.extend(next_answers(tape))
            while waiting and left:
                answers, left = waiting.popleft(), left - 1
                with contextlib.suppress(TraceError):
                    other = self.record_calls(mode, answers, most=LENGTH * len(tape.calls))
                    if all(_way(other) != _way(each) for (known, _), each in tapes.items() if known == mode):
                        tapes[mode, answers] = other
                    waiting.extend(next_answers(other))
        return tapes

    def record_plainly(self) -> Tape:
        """The tape with the first answers. Code that cannot go on with these may want to count by its inputs, as the sizes of images that
        are packed in one row: then it is told what they are."""
        try:
            return self.record_calls(self.first)
        except TraceError:
            if not any(isinstance(leaf, torch.Tensor) and is_whole(leaf) for leaf in tree_leaves((self.args, self.kwargs))):
                raise
            self.calls.clear()
            try:
                return self.record_calls(self.first, GIVEN)
            except TraceError:
                self.calls.clear()
        return self.record_calls(self.first)

    def record_calls(self, mode: Mode, answers: Answers = NO, turn: int = 0, most: float = math.inf) -> Tape:
        """The tape with these answers, and this luck, of at most so many calls; notes the calls of all parts."""
        copy = meta_copy(self.shell)
        copy.train(mode == "train")
        for name, module in copy.named_modules() if mode == self.first else ():
            if name:
                module.register_forward_pre_hook(lambda m, a, k, name=name: self.note_call(name, m, a, k), with_kwargs=True)
        return record_in_place(copy, self.args, self.kwargs, mode, answers, turn=turn, most=most)

    def note_call(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, spec = flatten_call(type(module), args, kwargs)
        constants = [leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)]
        self.calls.setdefault(name, []).append(_Call(args, kwargs, spec, constants))

    def visit_parts(self, name: str, module: nn.Module) -> None:
        for child_name, child in module.named_children():
            self.visit(f"{name}.{child_name}" if name else child_name, child)

    def visit(self, name: str, module: nn.Module) -> None:
        calls = self.calls.get(name, [])
        alike = bool(calls) and all(call.spec == calls[0].spec and call.constants == calls[0].constants for call in calls)
        if alike and any(isinstance(each, torch.device) for each in calls[0].constants):
            alike = False  # here it is meta, and in earnest another one
        if is_leaf(module) or isinstance(module, TracedModule):
            return
        if alike:
            try:
                graphs, tapes, train_error = both_modes(module, calls[0].args, calls[0].kwargs, name, train=self.train)
                untrained = bool(train_error) and self.trains  # its parts may do better
                if not untrained and not any(tape.guessed for tape in tapes):  # control flow may depend on it: boxes that are found, or not
                    if self.first == "train" and "train" in graphs:  # in eval mode nobody calls it: the whole graph calls its layers
                        del graphs["eval"]
                    self.found[name] = as_traced(module, graphs, train_error)
                    return
            except TraceError:
                pass
        self.visit_parts(name, module)

    def settle(self, originals: Originals) -> tuple[Tape, ...]:
        """Record with the islands in place; one that does not do what the original did goes back to plain Python, its parts as islands."""
        while True:
            wrong, tapes = self.compare(originals)
            if wrong is None:
                break
            if wrong not in self.found:
                wrong = next(iter(self.found), None)
                if wrong is None:
                    raise TraceError(f"the model does not do the same twice: {self.why}")
            for name in self.like(wrong):
                restored = self.found.pop(name)
                as_plain(restored)
                self.notes.append(f"{name!r} is left in plain Python: its graph did not repeat what the original does")
                self.visit_parts(name, restored)
        if not self.trains:
            why = "the model does not run on these inputs in train mode" if self.train else "train=False"
            self.notes.append(f"train mode was not recorded: {why}")
        if not self.train:
            self.shell.register_forward_pre_hook(_refuse_training)
        return tapes

    def like(self, wrong: str) -> list[str]:
        """The islands of the same class as one that went wrong: to try them one by one would take as many runs."""
        cls = original_class(type(self.found[wrong]))
        return [name for name, each in self.found.items() if original_class(type(each)) is cls]

    def compare(self, originals: Originals) -> tuple[str | None, tuple[Tape, ...]]:
        tapes: list[Tape] = []
        for (mode, answers), original in originals.items():
            try:
                tape = record(self.shell, self.args, self.kwargs, mode, answers)
            except TraceError:
                return "", ()
            for index, call in enumerate(tape.calls):
                if index >= len(original.calls) or call.op is not original.calls[index].op:
                    return call.owner.graph or "", ()
            if len(tape.calls) != len(original.calls):
                return "", ()
            tapes.append(tape)
        return None, tuple(tapes)


def _refuse_training(shell: nn.Module, args: Any) -> None:
    """Nobody knows what the shell's code does with its parts in train mode."""
    if shell.training:
        raise TraceError(EVAL_ALONE)


def blunt_answers(tape: Tape) -> Iterator[Answers]:
    """By another answer the code may take another way among its parts, or call them in another way, as with None in the place of a mask:
    yes to everything, and other numbers."""
    if _asked(tape, tape.questions):
        yield replace(tape.answers, always=True)
    if _asked(tape, tape.numbers):
        yield from (replace(tape.answers, number=number) for number in NUMBERS)


def next_answers(tape: Tape) -> Iterator[Answers]:
    """Yes to one question more, behind the last one that was answered so: what a yes leads to is asked by the next recording."""
    if tape.answers.always or tape.answers.number != NO.number:
        return
    last = max(tape.answers.yes, default=-1)
    lines: dict[str, int] = {}  # line of code -> the first question there
    for number, question in enumerate(tape.questions):
        lines.setdefault(question.line, number)
    behind = _asked(tape, tape.questions)
    yield from (replace(tape.answers, yes=tape.answers.yes | {number}) for number in lines.values() if last < number < behind)


def _asked(tape: Tape, questions: list[Question]) -> int:
    """How many of them layers follow; others are of what is made of the results."""
    layers = max((index for index, call in enumerate(tape.calls) if any(tape.values[ref.id].key for ref in call.reads)), default=0)
    return sum(question.after <= layers for question in questions)


def _way(tape: Tape) -> list[Any]:
    """Which calls it makes of which tensors: not the numbers in them."""
    return [(call.op, call.reads, call.owner.module) for call in tape.calls]
