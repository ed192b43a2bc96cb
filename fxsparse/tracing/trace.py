"""The front door of tracing: the whole model as a graph where that works, its traceable parts where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fxsparse.errors import TraceError
from fxsparse.tracing.attributes import as_buffers, hold_others, part_ways, read_attributes, release
from fxsparse.tracing.copies import shared_copy
from fxsparse.tracing.islands import Islands
from fxsparse.tracing.modes import both_modes, exporting
from fxsparse.tracing.nodes import FromNowhereError
from fxsparse.tracing.objects import WRITES
from fxsparse.tracing.replacements import replace_attention
from fxsparse.tracing.tape import Tape
from fxsparse.tracing.traced_module import TracedModule, as_traced


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced model: shares its tensors with the user's, keeps its state_dict keys."""

    module: nn.Module
    tapes: tuple[Tape, ...]  # eval first
    notes: tuple[str, ...]
    islands: tuple[str, ...]  # qualified names of the traced parts; ("",) when all of it is
    train: bool = True  # whether it may train as the user's model does


def trace(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, train: bool = True) -> Traced:
    """Trace a model on example inputs; the model itself is left alone. Without `train`, its train mode is not looked at."""
    _refuse(model)
    kwargs = dict(kwargs or {})
    prepared = replace_attention(shared_copy(model))
    try:
        graphs, tapes, train_error, attributes = _whole(prepared, args, kwargs, train)
    except TraceError as error:
        if WRITES in str(error):  # to run the model at all would spoil what was given
            raise
        held = _holding(model, args, kwargs, train) if isinstance(error, FromNowhereError) else None
        if held is not None:
            return held
        prepared = replace_attention(shared_copy(model))  # without the buffers that were made of attributes before it failed
        parts = Islands(prepared, args, kwargs, str(error), train=train)
        tapes = parts.run()
        notes = (f"not traced as a whole, but in {len(parts.found)} parts: {error}", *parts.notes)
        return Traced(prepared, tapes, notes, tuple(parts.found), train)
    if not train_error or not train:
        return _as_one(prepared, graphs, tapes, train_error, attributes, train)
    parts = Islands(prepared, args, kwargs, train_error, first="train")
    try:
        tapes = (*tapes, *parts.run())
    except TraceError:
        prepared = replace_attention(shared_copy(model))
        as_buffers(prepared, attributes)
        return _as_one(prepared, graphs, tapes, train_error, attributes, train)
    notes = (f"train mode stays in plain Python, with {len(parts.found)} traced parts: {train_error}", *parts.notes)
    return Traced(as_traced(prepared, graphs, train_error, trains_in_python=True, attributes=attributes), tapes, notes, ("",))


def _whole(module: nn.Module, args: Any, kwargs: Mapping[str, Any], train: bool) -> tuple[Any, tuple[Tape, ...], str, tuple[str, ...]]:
    """The graphs of a module, its tapes, why it does not train, and the plain attributes that are buffers now."""
    graphs, tapes, train_error = both_modes(module, args, kwargs, "", exporting, train=train)
    attributes = tuple(read_attributes(module, (each.graph for each in graphs.values())))
    if attributes:
        as_buffers(module, attributes)
        graphs, tapes, train_error = both_modes(module, args, kwargs, "", exporting, train=train)
    return graphs, tapes, train_error, attributes


def _holding(model: nn.Module, args: Any, kwargs: Mapping[str, Any], train: bool) -> Traced | None:
    """The model as a whole, where it reads tensors from lists or from beside its classes; nothing where that is not enough."""
    prepared = replace_attention(shared_copy(model))
    if not hold_others(prepared):
        return None
    try:
        graphs, *_ = both_modes(prepared, args, kwargs, "", exporting, train=train)
        release(prepared, but=(str(node.target) for each in graphs.values() for node in each.graph.nodes if node.op == "get_attr"))
        graphs, tapes, train_error, attributes = _whole(prepared, args, kwargs, train)
    except TraceError:
        return None
    if train_error and train:  # plain Python would go on reading what lies there
        return None
    part_ways(prepared)
    return _as_one(prepared, graphs, tapes, train_error, attributes, train)


def _as_one(module: nn.Module, graphs: Any, tapes: tuple[Tape, ...], train_error: str, attributes: tuple[str, ...], train: bool) -> Traced:
    """A model that is traced as a whole, whether it trains or not."""
    notes = (f"train mode refuses: {train_error}",) if train_error else ()
    return Traced(as_traced(module, graphs, train_error, attributes=attributes), tapes, notes, ("",), train)


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
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{name!r} is a TorchScript module and has no Python to trace; put the module in its place that it was scripted from"
            )
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise TraceError(
                f"{name!r} is a quantized {type(module).__name__}, whose weights are packed; pass the float model and quantize the result"
            )
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if is_lazy(tensor):
                raise TraceError(
                    f"{f'{name}.{own}' if name else own!r} has no shape yet; "
                    "run the model once on real inputs, so that its lazy modules make their parameters"
                )
