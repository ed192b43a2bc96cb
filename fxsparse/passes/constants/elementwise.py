"""Element by element, and tensors that are filled with one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxsparse.axes.site import dim_of
from fxsparse.passes.constants.step import Family, Step, to_rank
from fxsparse.passes.constants.values import Known, full_on, uniform, unknown
from fxsparse.tracing.tape import Ref

elementwise = Family()


def each_element(step: Step) -> Known:
    """The operator itself, on the few numbers that are known."""
    known = {ref: to_rank(step.look(ref), len(step.result)) for ref in step.tensors}
    shape = torch.broadcast_shapes(*(x.shape for x in known.values())) if known else ()
    believed = torch.ones(shape, dtype=torch.bool)
    for x in known.values():
        believed = believed & x.known
    value = _run(step, known, shape) if not step.sized and bool(believed.any()) else torch.zeros(shape, dtype=torch.float64)
    if step.sized or value is None:
        believed, value = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.float64)
    if step.call.name in ("aten.mul", "aten.mul_"):
        nothing = torch.zeros(shape, dtype=torch.bool)
        for x in known.values():
            nothing = nothing | x.zero
        value, believed = value.masked_fill(nothing, 0), believed | nothing
    return Known(value.expand(shape), believed.expand(shape))


def _run(step: Step, known: dict[Ref, Known], shape: Sequence[int]) -> Tensor | None:
    def real(value: Any) -> Any:
        if isinstance(value, Ref):
            return known[value].value
        if isinstance(value, (list, tuple)):
            return [real(item) for item in value]
        return torch.device("cpu") if isinstance(value, torch.device) else value

    args, kwargs = [real(a) for a in step.call.args], {k: real(v) for k, v in step.call.kwargs.items()}
    if step.call.op._schema.is_mutable and args and isinstance(args[0], Tensor):
        args[0] = args[0].expand(shape).clone()
    try:
        out = step.call.op(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError):
        return None
    return out if isinstance(out, Tensor) and out.shape == torch.Size(shape) else None


@elementwise.rule("fill fill_ zero zero_ zeros_like ones_like full_like zeros ones full new_zeros new_ones new_full scalar_tensor")
def _filled(step: Step) -> Known:
    if step.sized:
        return unknown(len(step.result))
    name = step.call.name
    number: Any = 0.0 if "zero" in name else 1.0 if "ones" in name else step.arg("value", step.arg("fill_value", step.arg("s")))
    if isinstance(number, Ref):
        return to_rank(step.look(number), len(step.result))
    dtype = step.tape.values[step.call.results[0].id].dtype
    return uniform(number, len(step.result), torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)


@elementwise.rule("copy_ copy")
def _copied(step: Step) -> Known:
    return to_rank(step.look(step.arg("src")), len(step.result))


@elementwise.rule("native_dropout")
def _dropout(step: Step) -> Known:
    """As in eval mode."""
    return step.look(step.arg("input"))


@elementwise.rule("bernoulli_")
def _bernoulli(step: Step) -> Known:
    """Dropout written out: in train mode, what is kept is divided by its probability, so that all of it together is as in eval mode."""
    kept = step.arg("p")
    rank = len(step.result)
    return uniform(kept, rank, torch.float64) if step.tape.mode == "train" and isinstance(kept, float) else unknown(rank)


@elementwise.rule("glu")
def _glu(step: Step) -> Known:
    ref = step.arg("self")
    shape = step.shape(ref)
    dim = dim_of(step.arg("dim"), len(shape))
    x = full_on(step.look(ref), shape, [dim])
    half = shape[dim] // 2
    a, b = (x.moved(lambda t, at=at: t.narrow(dim, at, half)) for at in (0, half))  # type: ignore[misc]
    return Known(torch.where(a.zero, 0, a.value * torch.sigmoid(b.value)), a.zero | (a.known & b.known))
