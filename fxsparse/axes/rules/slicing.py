"""Operators that cut an axis or lay axes end to end."""

from __future__ import annotations

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import PositionIn, Site, SizeOf, dim_of
from fxsparse.axes.table import Family

slicing = Family()


@slicing.rule("aten.slice", text="(a) -> (part of a)")
def slice_(site: Site) -> None:
    """Start and end are literals."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dim"), len(axes))
    extent = size(axes[dim])
    start, stop, step = slice(site.arg("start"), site.arg("end"), site.arg("step")).indices(extent)
    whole = axes[dim]
    axes[dim] = site.algebra.cut(whole, start, stop, step)
    site.literal("start", PositionIn(whole, start, site.arg("start")))
    site.literal("end", PositionIn(whole, stop, site.arg("end")))
    if axes[dim] is not whole:
        site.touch(whole)
        if step != 1:
            site.freeze(whole, "takes every few coordinates of it")
    site.give(axes)
    site.movement = axes[dim] is whole


@slicing.rule("aten.narrow", text="(a) -> (part of a)")
def narrow(site: Site) -> None:
    """A slice by start and length."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dim"), len(axes))
    start, length = site.arg("start"), site.arg("length")
    whole = axes[dim]
    axes[dim] = site.algebra.cut(whole, start, start + length)
    site.literal("start", PositionIn(whole, start, start))
    site.literal("length", SizeOf(axes[dim], length))
    site.give(axes)


@slicing.rule("aten.select", text="(a, b) -> (b)  the selected coordinate stays")
def select(site: Site) -> None:
    """One coordinate by a fixed index: it may not go, and its index moves with those before it."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dim"), len(axes))
    whole = axes.pop(dim)
    index = dim_of(site.arg("index"), size(whole))
    if size(whole) > 1:
        site.algebra.cut(whole, index, index + 1)
        site.literal("index", PositionIn(whole, index, site.arg("index")))
    site.give(axes)


@slicing.rule("aten.unbind", text="(a, b) -> (b), (b), …")
def unbind(site: Site) -> None:
    """Every coordinate by its fixed index."""
    axes = site.axes("self")
    whole = axes.pop(dim_of(site.arg("dim"), len(axes)))
    site.freeze(whole, "takes it apart, coordinate by coordinate")
    for index in range(len(site.call.results)):
        site.give(axes, index)


def _cut_all(site: Site, pieces: list[int], dim: int) -> list[Axis]:
    axes = site.axes("self")
    whole, start, parts = axes[dim], 0, []
    for index, extent in enumerate(pieces):
        part = site.algebra.cut(whole, start, start + extent)
        start += extent
        parts.append(part)
        site.give([*axes[:dim], part, *axes[dim + 1 :]], index)
    return parts


@slicing.rule("aten.split", "aten.unsafe_split", "aten.chunk", "aten.unsafe_chunk", text="(a) -> (part of a), (part of a), …")
def split(site: Site) -> None:
    """Parts of one size: once a part has lost a coordinate, the sizes must be written out."""
    dim = dim_of(site.arg("dim"), len(site.axes("self")))
    parts = _cut_all(site, [site.result_shape(i)[dim] for i in range(len(site.call.results))], dim)
    name = "split_size" if site.has("split_size") else "chunks"
    if name == "split_size" and parts:
        site.literal(name, SizeOf(parts[0], site.arg(name)))


@slicing.rule("aten.split_with_sizes", "aten.unsafe_split_with_sizes", text="(a) -> (part of a), (part of a), …")
def split_with_sizes(site: Site) -> None:
    """Parts of written sizes."""
    dim = dim_of(site.arg("dim"), len(site.axes("self")))
    sizes = site.arg("split_sizes")
    parts = _cut_all(site, list(sizes), dim)
    site.literal("split_sizes", [SizeOf(part, n) for part, n in zip(parts, sizes, strict=True)])


@slicing.rule("aten.cat", "aten.concat", text="(a), (b) -> (a + b)")
def cat(site: Site) -> None:
    """End to end along one axis; the others are the same."""
    tensors = [ref for ref in site.arg("tensors") if site.shape(ref) != (0,)]
    dim = dim_of(site.arg("dim"), len(site.result_shape()))
    axes = site.axes(tensors[0])
    for ref in tensors[1:]:
        for i, axis in enumerate(site.axes(ref)):
            if i != dim:
                site.algebra.unify(axes[i], axis)
    pieces = [site.axes(ref)[dim] for ref in tensors]
    axes[dim] = site.algebra.concatenate(pieces)
    site.touch(*axes)
    site.give(axes)


@slicing.rule("aten.stack", text="(a), (a) -> (n, a)")
def stack(site: Site) -> None:
    """A new axis; all the others are the same."""
    tensors = site.arg("tensors")
    axes = site.axes(tensors[0])
    for ref in tensors[1:]:
        for known, axis in zip(axes, site.axes(ref), strict=True):
            site.algebra.unify(known, axis)
    site.touch(*axes)
    axes.insert(dim_of(site.arg("dim"), len(axes) + 1), site.free(len(tensors), "lays tensors along it"))
    site.give(axes)


@slicing.rule("aten.constant_pad_nd", "aten.pad", text="(a) -> (new + a + new)")
def constant_pad(site: Site) -> None:
    """New coordinates, all alike, before and after; a negative amount cuts."""
    axes = site.axes("self")
    pad = list(site.arg("pad"))
    written: list[object] = list(pad)
    for back in range(len(pad) // 2):
        dim = len(axes) - 1 - back
        before, after = pad[2 * back], pad[2 * back + 1]
        if before == after == 0:
            continue
        axis = axes[dim]
        if before < 0 or after < 0:
            axis = site.algebra.cut(axis, max(0, -before), size(axis) - max(0, -after))
            site.freeze(axes[dim], "cuts it by a negative amount")
        if all(factor.free for factor in axis) and axis:
            axes[dim] = site.free_like(site.result_shape()[dim], axis, "pads it")
            continue
        left, right = site.alike(max(before, 0)), site.alike(max(after, 0))
        site.book.padding.update(factor.uid for factor in (*left, *right))
        axes[dim] = site.algebra.concatenate([left, axis, right])
        for position, part in ((2 * back, left), (2 * back + 1, right)):
            if pad[position] > 1:
                written[position] = SizeOf(part, pad[position])
    site.literal("pad", written)
    site.touch(*axes)
    site.give(axes)
