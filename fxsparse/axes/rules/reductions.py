"""Operators that look at a whole axis: means, maxima, softmax, sorting. What they look along stays whole, but for a norm's."""

from __future__ import annotations

import math

from fxsparse.axes.by_hand import MOMENTS, correction_of, is_norm
from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, dim_of
from fxsparse.axes.table import Family, aten
from fxsparse.tracing.tape import Ref

reductions = Family()


def _dims(site: Site, rank: int) -> set[int]:
    dims = site.arg("dim") if site.has("dim") else None
    if dims is None or dims == []:
        return set(range(rank))
    return {dim_of(d, rank) for d in ([dims] if isinstance(dims, int) else dims)}


def _reduce(site: Site, summing: bool) -> None:
    name = "self" if site.has("self") else site.call.op._schema.arguments[0].name
    axes = site.axes(name)
    # A channel that is gone is a zero in a sum over channels. In a sum over a weight it is not: consumers have a weight for it, which only
    # a norm leaves out.
    weight = site.is_weight(site.arg(name))
    dims = _dims(site, len(axes))
    norm = (site.call.name in MOMENTS or (summing and weight)) and is_norm(site.tape, site.call)
    summing = summing and not weight
    if norm:
        site.book.varying.append((tuple(axes[i] for i in dims), correction_of(site)))
    idle = all(ref.id in site.tape.idle for ref in site.call.makes)
    for i in dims:
        if idle:  # of any length, as nobody reads what comes of it
            site.touch(axes[i])
        elif norm:
            site.touch(axes[i])
            site.take_statistics([axes[i]])
        elif summing:
            site.touch(axes[i])
            site.meeting(axes[i])
        else:
            site.freeze(axes[i], "reduces it")
    left = [axis for i, axis in enumerate(axes) if i not in dims]
    kept: list[Axis] = [() if i in dims else axis for i, axis in enumerate(axes)]
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            site.give(kept if len(site.result_shape(index)) == len(axes) else left, index)


@reductions.rule(
    *aten(
        "mean var var_mean std std_mean amax amin max min prod argmax argmin all any logsumexp median mode kthvalue nansum aminmax "
        "count_nonzero"
    ),
    text="(a, r!) -> (a)",
)
def reduce(site: Site) -> None:
    """The reduced axes stay whole, but for those of a norm that is written out by hand. max(a, b) of two tensors is element-wise."""
    if len(site.tensors) == 2 and site.has("other"):
        from fxsparse.axes.rules.pointwise import elementwise

        return elementwise(site)
    _reduce(site, summing=False)


@reductions.rule("aten.sum", text="(a, r) -> (a)  a removed coordinate is a missing summand; weights stay whole but for norms")
def sum_(site: Site) -> None:
    """A sum is a contraction with ones."""
    _reduce(site, summing=True)


@reductions.rule(
    "aten.linalg_vector_norm", "aten.norm", text="(a, r) -> (a)  a removed coordinate is a missing summand; unless p is 0 or infinite"
)
def vector_norm(site: Site) -> None:
    """The root of a sum of powers. The greatest, the least and the count of an axis are of all of it."""
    power = site.arg("ord" if site.has("ord") else "p")
    _reduce(site, summing=power is None or 0 < power < math.inf)


@reductions.rule(
    *aten("_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod sort topk cummax cummin logcumsumexp argsort cumsum_"),
    text="(a, r!) -> (a, r)",
)
def along(site: Site) -> None:
    """The axis it works along stays whole; the others pass."""
    axes = site.axes("self")
    if axes:
        dim = dim_of(site.arg("dim"), len(axes))
        site.freeze(axes[dim], "works along it")
        site.touch(*axes)
        for index in range(len(site.call.results)):
            extent = site.result_shape(index)[dim]
            result = list(axes)
            if extent != size(axes[dim]):
                result[dim] = site.free(extent, "orders it")
            site.give(result, index)
    else:
        for index in range(len(site.call.results)):
            site.give([], index)


@reductions.rule("aten.renorm", "aten.renorm_", text="(a, r!) -> (a, r)  a is the axis `dim`")
def renorm(site: Site) -> None:
    """Each slice along `dim` gets a norm of its own, which is taken over all other axes: these stay whole."""
    axes = site.axes("self")
    for at, axis in enumerate(axes):
        if at != dim_of(site.arg("dim"), len(axes)):
            site.freeze(axis, "takes the norm of it")
    site.touch(*axes)
    site.give(axes)


@reductions.rule(*aten("_fft_r2c _fft_c2c _fft_c2r"), text="(a, f!) -> (a, f)")
def transform(site: Site) -> None:
    """A Fourier transform mixes what it works along; the others pass."""
    axes = site.axes("self")
    result = list(axes)
    for d in site.arg("dim"):
        at = dim_of(d, len(axes))
        site.freeze(axes[at], "transforms it")
        extent = site.result_shape()[at]
        if extent != size(axes[at]):
            result[at] = site.free_like(extent, axes[at], "is a frequency, or a position")
    site.touch(*axes)
    site.give(result)


@reductions.rule("aten.flip", "aten.roll", text="(a, r!) -> (a, r)")
def rearrange(site: Site) -> None:
    """The axes it rearranges stay whole."""
    axes = site.axes("self")
    dims = site.arg("dims")
    for d in dims if dims else range(len(axes)):
        site.freeze(axes[dim_of(d, len(axes))], "rearranges it")
    site.touch(*axes)
    site.give(axes)


@reductions.rule("aten.glu", text="(a + a) -> (a)")
def glu(site: Site) -> None:
    """The first half times the sigmoid of the second."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dim"), len(axes))
    whole = axes[dim]
    half = size(whole) // 2
    first, second = site.algebra.cut(whole, 0, half), site.algebra.cut(whole, half, 2 * half)
    site.algebra.unify(first, second)
    axes[dim] = first
    site.touch(*axes)
    site.give(axes)


@reductions.rule("aten.triu", "aten.tril", "aten.triu_", "aten.tril_", text="(…, a!, b!) -> (…, a, b)")
def triangle(site: Site) -> None:
    """Positions in the last two axes matter."""
    axes = site.axes("self")
    for axis in axes[-2:]:
        site.freeze(axis, "cuts a triangle out of it")
    site.touch(*axes)
    site.give(axes)
