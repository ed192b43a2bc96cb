"""The front door of tracing: the whole model as a graph where that works, its traceable parts where it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import TreeSpec, tree_leaves

from fxsparse.errors import TraceError
from fxsparse.tracing.copies import meta_copy, shared_copy
from fxsparse.tracing.leaves import is_leaf
from fxsparse.tracing.recorder import ALONE, LOOKS
from fxsparse.tracing.recording import record, record_in_place
from fxsparse.tracing.replacements import replace_attention
from fxsparse.tracing.tape import Mode, Tape
from fxsparse.tracing.traced_module import TracedGraph, TracedModule, as_traced, flatten_call, original_class
from fxsparse.tracing.tracer import trace_graph


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced model: shares its tensors with the user's, keeps its state_dict keys."""

    module: nn.Module
    tapes: tuple[Tape, ...]  # eval first
    notes: tuple[str, ...]
    islands: tuple[str, ...]  # qualified names of the traced parts; ("",) when all of it is


def trace(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> Traced:
    """Trace a model on example inputs; the model itself is left alone."""
    _refuse(model)
    kwargs = dict(kwargs or {})
    prepared = replace_attention(shared_copy(model))
    try:
        graphs, tapes, train_error = _both_modes(prepared, args, kwargs, "", exporting)
    except TraceError as whole_error:
        return _Islands(prepared, args, kwargs, str(whole_error)).run()
    notes = (f"train mode: {train_error}",) if train_error else ()
    return Traced(as_traced(prepared, graphs, train_error), tapes, notes, ("",))


def _refuse(model: Any) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(f"{type(model).__name__} is a TorchScript module and has no Python to trace; pass the module it was scripted from")
    if isinstance(model, TracedModule):
        raise TraceError("this module was traced already; trace the user's model, or use the Network that holds it")
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"fxsparse traces a torch.nn.Module, not a {type(model).__name__}; pass an instance, or wrap the function in a module"
        )
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        raise TraceError("this model is compiled; pass the one inside, model._orig_mod, and compile the result")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise TraceError(
                f"{name!r} has no shape yet; run the model once on real inputs, so that its lazy modules make their parameters"
            )
    for name, module in model.named_modules():
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise TraceError(
                f"{name!r} is a quantized {type(module).__name__}, whose weights are packed; pass the float model and quantize the result"
            )


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """While this is open, `torch.compiler.is_exporting()` says so, as under torch.export: code that looks at values for the sake of speed
    alone, as whether a mask masks anything, leaves it then."""
    before = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    torch.compiler._is_compiling_flag = torch.compiler._is_exporting_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = before


def _both_modes(
    module: nn.Module, args: Any, kwargs: Mapping[str, Any], prefix: str, again: Callable[[], AbstractContextManager[None]] | None = None
) -> tuple[dict[Mode, TracedGraph], tuple[Tape, ...], str]:
    """The eval graph, and the train graph where the code asks for its mode; each tried `again` in this context if it fails."""

    device = next(
        (
            t.device.type
            for t in (*module.parameters(), *module.buffers(), *tree_leaves((args, dict(kwargs))))
            if isinstance(t, torch.Tensor)
        ),
        "cpu",
    )

    def graph_of(mode: Mode) -> tuple[TracedGraph, Tape, bool]:
        try:
            return trace_graph(meta_copy(module), args, kwargs, mode, prefix, device)
        except TraceError:
            if again is None:
                raise
        with ALONE, again():  # what still stands in the way is what there is to say
            return trace_graph(meta_copy(module), args, kwargs, mode, prefix, device)

    graph, tape, asked = graph_of("eval")
    graphs: dict[Mode, TracedGraph] = {"eval": graph}
    tapes = [tape]
    train_error = ""
    if asked:
        try:
            graphs["train"], train_tape, _ = graph_of("train")
            tapes.append(train_tape)
        except TraceError as error:
            train_error = f"the train mode of {type(module).__name__} could not be traced: {error}"
    return graphs, tuple(tapes), train_error


@dataclass
class _Call:
    args: Any
    kwargs: Any
    spec: TreeSpec
    constants: list[Any]


@dataclass
class _Islands:
    """Keeps the user's Python as a shell and traces the largest parts that can be."""

    shell: nn.Module
    args: Any
    kwargs: Mapping[str, Any]
    why: str
    calls: dict[str, list[_Call]] = field(default_factory=dict)
    found: dict[str, TracedModule] = field(default_factory=dict)

    def run(self) -> Traced:
        try:
            originals = self.record_originals()
        except TraceError as error:
            if LOOKS not in self.why:
                raise
            raise TraceError(f"{self.why}, and cannot go on without it; compute it before the call, and pass it as an argument") from error
        for name, child in self.shell.named_children():
            self.visit(name, child)
        tapes, notes = self.settle(originals)
        notes.insert(0, f"not traced as a whole, but in {len(self.found)} parts: {self.why}")
        return Traced(self.shell, tapes, tuple(notes), tuple(self.found))

    def record_originals(self) -> dict[Mode, Tape]:
        """The tape of the untouched model in both modes, and what each submodule is called with."""
        tapes: dict[Mode, Tape] = {"eval": self.record_calls(truth=False)}
        if tapes["eval"].guessed:  # the other answer may call the same parts in another way, as with None in the place of a mask
            with contextlib.suppress(TraceError):
                self.record_calls(truth=True)
        with contextlib.suppress(TraceError):  # a detection model wants targets in train mode; `settle` says so
            tapes["train"] = record(self.shell, self.args, self.kwargs, "train")
        return tapes

    def record_calls(self, truth: bool) -> Tape:
        """The tape in eval mode with one answer to all questions; notes the calls of all parts."""
        copy = meta_copy(self.shell)
        copy.eval()
        for name, module in copy.named_modules():
            if name:
                module.register_forward_pre_hook(lambda m, a, k, name=name: self.note_call(name, m, a, k), with_kwargs=True)
        return record_in_place(copy, self.args, self.kwargs, "eval", truth=truth)

    def note_call(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, spec = flatten_call(type(module), args, kwargs)
        constants = [leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)]
        self.calls.setdefault(name, []).append(_Call(args, kwargs, spec, constants))

    def visit(self, name: str, module: nn.Module) -> None:
        calls = self.calls.get(name, [])
        alike = bool(calls) and all(call.spec == calls[0].spec and call.constants == calls[0].constants for call in calls)
        if is_leaf(module) or isinstance(module, TracedModule):
            return
        if alike:
            try:
                graphs, tapes, train_error = _both_modes(module, calls[0].args, calls[0].kwargs, name)
                if not any(tape.guessed for tape in tapes):  # control flow may depend on it: boxes that are found, or not
                    self.found[name] = as_traced(module, graphs, train_error)
                    return
            except TraceError:
                pass
        for child_name, child in module.named_children():
            self.visit(f"{name}.{child_name}", child)

    def settle(self, originals: dict[Mode, Tape]) -> tuple[tuple[Tape, ...], list[str]]:
        """Record with the islands in place; one that does not do what the original did goes back to plain Python."""
        notes: list[str] = []
        while True:
            wrong, tapes = self.compare(originals)
            if wrong is None:
                break
            if wrong not in self.found:
                wrong = next(iter(self.found), None)
                if wrong is None:
                    raise TraceError(f"the model does not do the same twice: {self.why}")
            restored = self.found.pop(wrong)
            restored.__class__ = original_class(type(restored))
            notes.append(f"{wrong!r} is left in plain Python: its graph did not repeat what the original does")
        if "train" not in originals:
            notes.append("train mode was not recorded: the model does not run on these inputs in train mode")
        return tapes, notes

    def compare(self, originals: dict[Mode, Tape]) -> tuple[str | None, tuple[Tape, ...]]:
        tapes: list[Tape] = []
        for mode, original in originals.items():
            try:
                tape = record(self.shell, self.args, self.kwargs, mode)
            except TraceError:
                return "", ()
            for index, call in enumerate(tape.calls):
                if index >= len(original.calls) or call.op is not original.calls[index].op:
                    return call.owner.graph or "", ()
            if len(tape.calls) != len(original.calls):
                return "", ()
            tapes.append(tape)
        return None, tuple(tapes)
