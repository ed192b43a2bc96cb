"""Operators over positions: pooling, resizing, padding by reflection, patches."""

from __future__ import annotations

import math

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, dim_of
from fxsparse.axes.table import Family
from fxsparse.tracing.tape import Ref

windows = Family()

BY_DIMENSIONS = {
    1: ("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d", "upsample_nearest1d", "upsample_linear1d",
        "reflection_pad1d", "replication_pad1d", "_upsample_nearest_exact1d"),
    2: ("max_pool2d_with_indices", "avg_pool2d", "adaptive_max_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d",
        "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
        "reflection_pad2d", "replication_pad2d", "max_pool2d", "fractional_max_pool2d", "max_unpool2d", "grid_sampler_2d"),
    3: ("max_pool3d_with_indices", "avg_pool3d", "adaptive_max_pool3d", "_adaptive_avg_pool3d", "adaptive_avg_pool3d", "upsample_nearest3d",
        "upsample_trilinear3d", "_upsample_nearest_exact3d", "reflection_pad3d", "replication_pad3d", "max_pool3d", "fractional_max_pool3d",
        "max_unpool3d", "grid_sampler_3d"),
}  # fmt: skip


def _pool(site: Site, dimensions: int) -> None:
    name = site.call.op._schema.arguments[0].name
    axes = site.axes(name)
    lead, positions = axes[: len(axes) - dimensions], axes[len(axes) - dimensions :]
    passed = _passed(site, dimensions)
    for i, axis in enumerate(positions):
        if i in passed:
            site.touch(axis)
        else:
            site.freeze(axis, "takes windows of it")
    site.touch(*lead)
    for other in site.tensors[1:]:
        theirs = site.axes(other)
        alike = _alike(site.call.op._schema.name, len(theirs), lead)
        for i, axis in enumerate(theirs):
            if i in alike:
                site.algebra.unify(alike[i], axis)
            else:
                site.freeze(axis, "samples by it")
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            shape = site.result_shape(index)
            made = [
                axis if i in passed else site.free_like(n, axis, "makes positions")
                for i, (n, axis) in enumerate(zip(shape[len(lead) :], positions, strict=True))
            ]
            site.give([*lead, *made], index)


def _passed(site: Site, dimensions: int) -> set[int]:
    """The axes of which each window takes a single coordinate, in order: a pool over steps alone, whose other axis has the channels. The
    maximum's number, where somebody wants it, counts over all of them."""
    if not all(site.has(name) for name in ("kernel_size", "stride", "padding")) or any(
        site.tape.readers.get(ref.id) for ref in site.call.makes[1:]
    ):
        return set()
    kernel, stride, padding = (_of_each_axis(site, name, dimensions) for name in ("kernel_size", "stride", "padding"))
    return {i for i in range(dimensions) if (kernel[i], stride[i], padding[i]) == (1, 1, 0)}


def _of_each_axis(site: Site, name: str, dimensions: int) -> list[int]:
    """A pool's argument, one number for each axis. A stride that is not given is the kernel's size."""
    given = site.arg(name) or site.arg("kernel_size")
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * (dimensions // len(numbers) or 1)


def _alike(name: str, theirs: int, lead: list[Axis]) -> dict[int, Axis]:
    """Which axes of what tells where to sample are those of what is sampled."""
    if "grid" in name:  # the same for all channels
        return {0: lead[0]}
    first = theirs - 1 - len(lead) if "fractional" in name else 0  # random numbers, which have a batch always; indices of an unpooling
    return {first + i: axis for i, axis in enumerate(lead)}


for _dimensions, _names in BY_DIMENSIONS.items():
    windows.rule(*(f"aten.{name}" for name in _names), text=f"(…{', x!' * _dimensions}) -> (…{', u' * _dimensions})")(
        lambda site, dimensions=_dimensions: _pool(site, dimensions)  # type: ignore[misc]
    )


@windows.rule("aten.im2col", text="(b, c, x!, y!) -> (b, c·k, l)")
def im2col(site: Site) -> None:
    """Patches: the kernel's positions stand behind each channel."""
    *lead, c, x, y = site.axes("self")
    site.freeze(x, "takes patches of it")
    site.freeze(y, "takes patches of it")
    site.touch(c, *lead)
    kernel = math.prod(site.arg("kernel_size"))
    site.give([*lead, (*c, *site.free(kernel, "is a position in the patch")), site.free(site.result_shape()[-1], "counts patches")])


@windows.rule("aten.col2im", text="(b, c·k, l!) -> (b, c, u, v)")
def col2im(site: Site) -> None:
    """The inverse: patches are added up."""
    *lead, rows, patches = site.axes("self")
    kernel = math.prod(site.arg("kernel_size"))
    c, k = site.algebra.reshape([rows], [size(rows) // kernel, kernel])
    site.freeze(k, "is a position in the patch")
    site.freeze(patches, "counts patches")
    site.touch(c, *lead)
    shape = site.result_shape()
    site.give([*lead, c, *(site.free(n, "makes positions") for n in shape[-2:])])


@windows.rule("aten.unfold", text="(a, x!) -> (a, u, k)")
def unfold(site: Site) -> None:
    """Sliding windows along one axis, laid out along a new last one."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dimension"), len(axes))
    site.freeze(axes[dim], "takes windows of it")
    shape = site.result_shape()
    axes[dim] = site.free_like(shape[dim], axes[dim], "counts windows")
    site.give([*axes, site.free(shape[-1], "is a position in the window")])


@windows.rule("torchvision.roi_align", "torchvision.roi_pool", text="(b, c, x!, y!), (r, 5) -> (r, c, u, v)")
def roi(site: Site) -> None:
    """Boxes cut out and resized: channels pass."""
    axes: list[Axis] = site.axes("input")
    for axis in (axes[0], *axes[2:]):
        site.freeze(axis, "samples it")
    site.touch(axes[1])
    for index in range(len(site.call.results)):
        shape = site.result_shape(index)
        site.give([site.free(shape[0], "counts boxes"), axes[1], *(site.free(n, "makes positions") for n in shape[2:])], index)
