"""Sums and means along axes, windows over places, lookups."""

from __future__ import annotations

from typing import Any

import torch

from fxsparse.axes.site import dim_of
from fxsparse.passes.constants.step import Family, Step, to_rank
from fxsparse.passes.constants.values import Known, dropped, unknown
from fxsparse.tracing.tape import Ref

places = Family()


def _dims(step: Step) -> tuple[Ref, list[int], bool]:
    ref = step.arg("self")
    rank, dims = len(step.shape(ref)), step.arg("dim")
    chosen = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    return ref, [dim_of(d, rank) for d in chosen], bool(step.arg("keepdim", False))


@places.rule("mean amax amin")
def _mean(step: Step) -> Known:
    ref, dims, keep = _dims(step)
    x = step.look(ref)
    if not dims or not x.value.is_floating_point():
        return unknown(len(step.result))
    op: Any = {"aten.mean": torch.mean, "aten.amax": torch.amax, "aten.amin": torch.amin}[step.call.name]
    known = x.known
    for d in dims:
        known = known.all(d, keepdim=True)
    return dropped(Known(op(x.value, dims, keepdim=True), known), dims, keep)


@places.rule("sum")
def _sum(step: Step) -> Known:
    """Of alike summands, the sum follows their number, unless they are zero."""
    ref, dims, keep = _dims(step)
    x, shape = step.look(ref), step.shape(ref)
    known = x.known if all(x.shape[d] == shape[d] for d in dims) else x.zero
    for d in dims:
        known = known.all(d, keepdim=True)
    return dropped(Known(x.value.sum(dims, keepdim=True) if dims else x.value, known), dims, keep)


def _alike(step: Step, ref: Ref, count: int) -> Known:
    """What is alike along the last axes stays so; what is not is forgotten."""
    x = step.look(ref)
    rank = len(step.result)
    return x if all(n == 1 for n in x.shape[rank - count :]) and rank == len(x.shape) else unknown(rank)


PASSING = {
    1: "max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d reflection_pad1d replication_pad1d "
    "_upsample_nearest_exact1d",
    2: "max_pool2d_with_indices max_pool2d adaptive_max_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad2d "
    "replication_pad2d",
    3: "max_pool3d_with_indices max_pool3d adaptive_max_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d upsample_nearest3d "
    "upsample_trilinear3d _upsample_nearest_exact3d reflection_pad3d replication_pad3d",
}
for _count, _names in PASSING.items():
    places.rule(_names)(lambda step, count=_count: _alike(step, step.tensors[0], count))  # type: ignore[misc]


@places.rule("avg_pool1d avg_pool2d avg_pool3d")
def _avg_pool(step: Step) -> Known:
    """Padding with zeros that are counted leaves only zero alike."""
    x = _alike(step, step.tensors[0], int(step.call.name[-2]))
    pads = step.arg("padding")
    counted = any(pads if isinstance(pads, (list, tuple)) else [pads]) and step.arg("count_include_pad", True)
    return x.where(x.value == 0) if counted or step.arg("divisor_override") is not None else x


@places.rule("embedding")
def _embedding(step: Step) -> Known:
    """A dimension in which all words are the same."""
    table = step.look(step.arg("weight"))
    same = (table.value == table.value[:1]).all(0) & table.known.all(0)
    return to_rank(Known(table.value[0], same.expand(table.value.shape[1:])), len(step.result))
