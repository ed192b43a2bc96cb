"""Tensors made in the forward pass."""

from __future__ import annotations

from fxsparse.axes.factors import Axis
from fxsparse.axes.site import Site
from fxsparse.axes.table import Family
from fxsparse.tracing.tape import Ref

creation = Family()
LARGEST = 65_536  # an axis longer than this counts positions, not channels


@creation.rule(
    "aten.zeros", "aten.ones", "aten.full", "aten.empty", "aten.rand", "aten.randn", "aten.new_zeros", "aten.new_ones", "aten.new_full",
    "aten.new_empty", "aten.empty_strided", "aten.new_empty_strided", "aten.empty_permuted",
    text="-> (a, b, …)  coordinates are alike",
)  # fmt: skip
def filled(site: Site) -> None:
    """One value, or noise, everywhere: new axes, whose sizes are literals."""
    shape = site.result_shape()
    axes: list[Axis] = [site.algebra.fresh(n) if n <= LARGEST else site.free(n, "makes a very long axis") for n in shape]
    if shape:
        site.sizes("size", axes)
    site.give(axes)


@creation.rule(
    "aten.arange", "aten.linspace", "aten.eye", "aten.scalar_tensor", "aten.tril_indices", "aten.triu_indices", "aten.randint", "aten.randperm",
    "aten._local_scalar_dense", "aten.hann_window", "aten.hamming_window", "aten.logspace",
    text="-> (a!, b!, …)  coordinates are numbered",
)  # fmt: skip
def numbered(site: Site) -> None:
    """Every coordinate differs from the others by its place."""
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            site.give([site.free(n, "numbers its coordinates") for n in site.result_shape(index)], index)
