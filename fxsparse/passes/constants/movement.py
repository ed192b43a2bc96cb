"""Operators that move coordinates, cut axes and lay them end to end."""

from __future__ import annotations

import torch

from fxsparse.axes.site import dim_of
from fxsparse.passes.constants.step import Family, Step, to_rank
from fxsparse.passes.constants.values import Known, full_on, reshaped, unknown

aten = torch.ops.aten
movement = Family()


@movement.rule("clone contiguous alias detach lift_fresh lift_fresh_copy positive as_strided_")
def _same(step: Step) -> Known:
    ref = step.tensors[0]
    return step.look(ref) if step.shape(ref) == step.result else unknown(len(step.result))


@movement.rule("_to_copy")
def _cast(step: Step) -> Known:
    x, dtype = step.look(step.tensors[0]), step.tape.values[step.call.results[0].id].dtype
    return x if dtype.is_floating_point and x.value.is_floating_point() else Known(x.value.to(dtype), x.known)


@movement.rule("view _unsafe_view reshape _reshape_alias view_copy unsqueeze squeeze unflatten flatten")
def _view(step: Step) -> Known:
    ref = step.tensors[0]
    return reshaped(step.look(ref), step.shape(ref), step.result)


@movement.rule("permute transpose swapaxes t numpy_T movedim")
def _permute(step: Step) -> Known:
    rest = step.call.args[1:]
    return step.look(step.tensors[0]).moved(lambda t: step.call.op(t, *rest, **step.call.kwargs))


@movement.rule("expand broadcast_to")
def _expand(step: Step) -> Known:
    return to_rank(step.look(step.tensors[0]), len(step.result))


@movement.rule("slice narrow")
def _slice(step: Step) -> Known:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    if x.shape[dim] == 1 != step.shape(ref)[dim]:
        return x
    rest = step.call.args[1:]
    return x.moved(lambda t: step.call.op(t, *rest, **step.call.kwargs))


@movement.rule("select")
def _select(step: Step) -> Known:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    return x.moved(lambda t: t.select(dim, 0 if t.shape[dim] == 1 else step.arg("index")))


@movement.rule("unbind")
def _unbind(step: Step) -> list[Known]:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    return [x.moved(lambda t, i=i: t.select(dim, 0 if t.shape[dim] == 1 else i)) for i in range(len(step.call.results))]  # type: ignore[misc]


@movement.rule("split split_with_sizes chunk unsafe_split unsafe_split_with_sizes unsafe_chunk")
def _split(step: Step) -> list[Known]:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    found, start = [], 0
    for part in step.call.results:
        size = step.shape(part)[dim]
        alike = x.shape[dim] == 1
        found.append(x if alike else x.moved(lambda t, at=start, n=size: t.narrow(dim, at, n)))  # type: ignore[misc]
        start += size
    return found


@movement.rule("cat concat stack")
def _cat(step: Step) -> Known:
    rank = len(step.result)
    dim = dim_of(step.arg("dim"), rank)
    parts = []
    for ref in step.arg("tensors"):
        if step.shape(ref) == (0,):
            continue
        x, shape = step.look(ref), step.shape(ref)
        if step.call.name == "aten.stack":
            x, shape = x.moved(lambda t: t.unsqueeze(dim)), (*shape[:dim], 1, *shape[dim:])
        parts.append(full_on(x, shape, [dim]))
    others = torch.broadcast_shapes(*([1 if i == dim else n for i, n in enumerate(x.shape)] for x in parts))
    sizes = [[x.shape[dim] if i == dim else n for i, n in enumerate(others)] for x in parts]
    return Known(
        torch.cat([x.value.expand(size) for x, size in zip(parts, sizes, strict=True)], dim),
        torch.cat([x.known.expand(size) for x, size in zip(parts, sizes, strict=True)], dim),
    )


@movement.rule("constant_pad_nd")
def _pad(step: Step) -> Known:
    """Along an axis on which all is alike, a pad must be the same number."""
    ref, pad, number = step.arg("self"), step.arg("pad"), step.arg("value", 0)
    if step.sized:
        return unknown(len(step.result))
    x, shape = step.look(ref), step.shape(ref)
    for back in range(len(pad) // 2):
        dim, (before, after) = len(shape) - 1 - back, pad[2 * back : 2 * back + 2]
        if before == after == 0:
            continue
        if x.shape[dim] == 1 != shape[dim]:
            x = x.where(x.value == number) if before > 0 or after > 0 else x
        else:
            amounts = [0, 0] * back + [before, after]
            x = Known(aten.constant_pad_nd(x.value, amounts, number), aten.constant_pad_nd(x.known, amounts, True))
    return x
