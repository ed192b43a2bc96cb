"""Element by element, with broadcasting. Every operator that torch tags as pointwise is read by this one rule."""

from __future__ import annotations

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site
from fxsparse.axes.spec import unify_aligned
from fxsparse.axes.table import Family
from fxsparse.tracing.tape import Ref

pointwise = Family()
TEXT = "(…), (…) -> (…)"


@pointwise.rule(
    "aten.bernoulli", "aten.bernoulli_", "aten.native_dropout", "aten.celu_", "aten.alpha_dropout", "aten.rand_like", "aten.randn_like",
    "aten.zeros_like", "aten.ones_like", "aten.full_like", "aten.empty_like", "aten.fill_", "aten.zero_", "aten.uniform_", "aten.normal_",
    "aten.lerp", "aten.lerp_", "aten.copy", "aten.copy_", "aten.masked_fill", "aten.masked_fill_", "aten.clamp_", "aten.rrelu_with_noise",
    "aten.rrelu_with_noise_functional", "aten._prelu_kernel", "aten.nan_to_num", "aten.where", "aten.fill", "aten.complex", "aten.polar",
    "aten.log_normal_", "aten.exponential_", "aten.random_", "aten.hardswish", "aten.hardswish_", "aten.log_sigmoid_forward", "aten.mish_",
    "aten.floor_divide", "aten.special_expm1",
    text=TEXT,
)  # fmt: skip
def elementwise(site: Site) -> None:
    """All tensors broadcast together; an in-place operator keeps the shape of its first."""
    known: list[Axis] = []
    for ref in site.tensors:
        known = unify_aligned(site, known, site.axes(ref))
    site.touch(*known)
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            shape = site.result_shape(index)
            site.give([axis if size(axis) == extent else site.free(extent, "broadcasts") for axis, extent in zip(known[-len(shape) :], shape, strict=True)] if shape else [], index)
