"""Norms. A norm over a prunable axis takes its statistics over the living; the proof accounts for it."""

from __future__ import annotations

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, SizeOf, dim_of
from fxsparse.axes.spec import apply_spec
from fxsparse.axes.table import Family, aten
from fxsparse.tracing.tape import Ref

normalisation = Family()


@normalisation.rule(
    *aten(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional "
        "cudnn_batch_norm batch_norm _batch_norm_with_update _batch_norm_no_update _batch_norm_with_update_functional "
        "native_batch_norm_backward"
    ),
    text="(b, c, …), (c), (c), (c), (c) -> (b, c, …), (c), (c)",
)
def batch_norm(site: Site) -> None:
    """Channel by channel; statistics over the batch and the positions. On a weight it is weight standardisation."""
    axes = site.axes("input")
    channels = axes[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if site.has(name) and isinstance(site.arg(name), Ref):
            site.algebra.unify(channels, site.axes(name)[0])
    others = (axes[0], *axes[2:])
    if site.is_weight(site.arg("input")):
        site.take_statistics(others)
    else:
        for axis in others:
            site.freeze(axis, "takes statistics over it")
    site.touch(*axes)
    site.give(axes)
    for index in range(1, len(site.call.results)):
        if isinstance(site.call.results[index], Ref):
            shape = site.result_shape(index)
            site.give([channels if n == size(channels) else site.free(n, "reserves it") for n in shape], index)


@normalisation.rule("aten.native_layer_norm", "aten.layer_norm", text="(…, c), (c), (c) -> (…, c), (…), (…)  statistics over c")
def layer_norm(site: Site) -> None:
    """Statistics over the last axes."""
    axes = site.axes("input")
    count = len(site.arg("normalized_shape"))
    lead, normed = axes[: len(axes) - count], axes[len(axes) - count :]
    _norm_over(site, normed, ("weight", "bias"))
    site.touch(*axes)
    site.give(axes)
    for index in range(1, len(site.call.results)):
        site.give([*lead, *[()] * count], index)


@normalisation.rule("aten._fused_rms_norm", "aten.rms_norm", text="(…, c), (c) -> (…, c), (…)  statistics over c")
def rms_norm(site: Site) -> None:
    """The root of the mean square over the last axes."""
    layer_norm(site)


def _norm_over(site: Site, normed: list[Axis], parameters: tuple[str, ...]) -> None:
    site.sizes("normalized_shape", normed)
    for name in parameters:
        if site.has(name) and isinstance(site.arg(name), Ref):
            for axis, other in zip(normed, site.axes(name), strict=True):
                site.algebra.unify(axis, other)
    site.take_statistics(normed)


@normalisation.rule("aten.native_group_norm", text="(b, g·c, …), (g·c), (g·c) -> (b, g·c, …), (b, g), (b, g)  statistics over c")
def group_norm(site: Site) -> None:
    """Statistics over each group of channels; groups stay equal, so both factors bind."""
    groups = site.arg("group")
    result = site.result_shape()
    bound = apply_spec(
        site, "(b, g·c, …), (g·c), (g·c) -> (b, g·c, …)", [site.arg("input"), site.arg("weight"), site.arg("bias")], {"g": groups}
    )
    axes = site.axes("input")
    for axis in axes[2:]:
        site.freeze(axis, "takes statistics over it")
    site.count_whole(axes[1])
    site.take_statistics([bound["c"]])
    site.literal("group", SizeOf(bound["g"], groups))
    site.literal("C", SizeOf(axes[1], site.arg("C")))
    site.algebra.label(bound["g"], "groups")
    site.algebra.label(bound["c"], "group_channels")
    assert len(result) == len(axes)
    for index in (1, 2):
        site.give([axes[0], bound["g"]], index)


@normalisation.rule(
    "aten._weight_norm_interface", "aten._weight_norm", text="(a, b, …), (a, 1, …) -> (a, b, …)  norm over all axes but one"
)
def weight_norm(site: Site) -> None:
    """The norm is a statistic over a weight's other axes."""
    axes = site.axes("v")
    dim = dim_of(site.arg("dim"), len(axes))
    for i, (axis, other) in enumerate(zip(axes, site.axes("g"), strict=True)):
        if i == dim:
            site.algebra.unify(axis, other)
        else:
            site.take_statistics([axis])
    site.touch(*axes)
    site.give(axes)
    if len(site.call.results) > 1:
        site.give(site.axes("g"), 1)
