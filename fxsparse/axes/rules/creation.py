"""Tensors made in the forward pass."""

from __future__ import annotations

from fxsparse.axes.factors import Axis
from fxsparse.axes.rules.pointwise import elementwise
from fxsparse.axes.site import Site
from fxsparse.axes.table import Family, aten
from fxsparse.tracing.tape import Ref

creation = Family()
LARGEST = 65_536  # an axis longer than this counts positions, not channels
UNREAD = frozenset(aten("new_zeros new_ones new_full new_empty new_empty_strided"))  # of their tensor, dtype and device alone


@creation.rule(
    *aten("zeros ones full empty rand randn new_zeros new_ones new_full new_empty"),
    text="-> (a, b, …)  coordinates are alike",
)
def filled(site: Site) -> None:
    """One value, or noise, everywhere: new axes, whose sizes are literals."""
    shape = site.result_shape()
    axes: list[Axis] = [site.alike(n) if n <= LARGEST else site.free(n, "makes a very long axis") for n in shape]
    if shape:
        site.sizes("size", axes)
    site.give(axes)


@creation.rule("aten.normal", text="(…), (…) -> (…), or -> (a, b, …)")
def normal(site: Site) -> None:
    """Noise around tensors, or of a size."""
    if site.tensors:
        elementwise(site)
    else:
        filled(site)


@creation.rule(
    *aten(
        "arange linspace eye scalar_tensor tril_indices triu_indices randint randperm _local_scalar_dense hann_window "
        "hamming_window logspace empty_strided new_empty_strided empty_permuted"
    ),
    text="-> (a!, b!, …)  coordinates are numbered",
)
def numbered(site: Site) -> None:
    """Every coordinate differs from the others by its place."""
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            site.give([site.free(n, "numbers its coordinates") for n in site.result_shape(index)], index)
