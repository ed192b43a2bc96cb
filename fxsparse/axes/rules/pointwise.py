"""Element by element, with broadcasting. Every operator that torch tags as pointwise is read by this one rule."""

from __future__ import annotations

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site
from fxsparse.axes.spec import unify_aligned
from fxsparse.axes.table import Family, aten
from fxsparse.tracing.tape import Ref

pointwise = Family()
TEXT = "(…), (…) -> (…)"


@pointwise.rule(
    *aten(
        "bernoulli bernoulli_ native_dropout celu_ alpha_dropout rand_like randn_like zeros_like ones_like full_like empty_like "
        "fill_ zero_ uniform_ normal_ lerp lerp_ copy copy_ masked_fill masked_fill_ clamp_ rrelu_with_noise "
        "rrelu_with_noise_functional _prelu_kernel nan_to_num where fill complex polar log_normal_ exponential_ random_ "
        "hardswish hardswish_ log_sigmoid_forward mish_ floor_divide special_expm1"
    ),
    text=TEXT,
)
def elementwise(site: Site) -> None:
    """All tensors broadcast together; an in-place operator keeps the shape of its first."""
    known: list[Axis] = []
    for ref in site.tensors:
        known = unify_aligned(site, known, site.axes(ref))
    site.touch(*known)
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            shape = site.result_shape(index)
            site.give(
                [
                    axis if size(axis) == extent else site.free(extent, "broadcasts")
                    for axis, extent in zip(known[-len(shape) :], shape, strict=True)
                ]
                if shape
                else [],
                index,
            )


@pointwise.rule(*aten("mse_loss smooth_l1_loss huber_loss"), text="(…), (…) -> (…)  where nothing is reduced")
def loss(site: Site) -> None:
    """The distance of two tensors, element by element."""
    if site.arg("reduction") != 0:
        raise NotImplementedError(f"{site.call.name.partition('.')[2]} reduces its axes")
    elementwise(site)
