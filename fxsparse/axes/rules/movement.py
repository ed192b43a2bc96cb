"""Operators that only move coordinates: they rename and regroup axes and touch nothing."""

from __future__ import annotations

import math

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, SizeOf, dim_of
from fxsparse.axes.table import Family, aten

movement = Family()


@movement.rule(
    *aten("clone contiguous alias detach detach_ _to_copy lift_fresh lift_fresh_copy _conj positive alias_copy view_of pin_memory"),
    text="(…) -> (…)",
)
def same(site: Site) -> None:
    """The same coordinates."""
    site.moved(site.axes(site.tensors[0]))


@movement.rule("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias", "aten.view_copy", text="regroups factors row-major")
def view(site: Site) -> None:
    """Sizes are literals; -1 stays -1."""
    name = "size" if site.has("size") else "shape"
    if not site.has(name):  # view as another dtype
        if site.shape(site.tensors[0]) == site.result_shape():
            return site.moved(site.axes(site.tensors[0]))
        raise NotImplementedError("a view as another dtype changes the size")
    axes = site.algebra.reshape(site.axes("self"), site.result_shape())
    site.sizes(name, axes)
    site.moved(axes)


@movement.rule("aten.permute", text="(a, b, …) -> (b, a, …)")
def permute(site: Site) -> None:
    """Axes in another order."""
    axes = site.axes("self")
    site.moved([axes[dim_of(d, len(axes))] for d in site.arg("dims")])


@movement.rule("aten.transpose", "aten.transpose_", "aten.swapaxes", text="(a, b) -> (b, a)")
def transpose(site: Site) -> None:
    """Two axes change places."""
    axes = site.axes("self")
    if axes:
        i, j = dim_of(site.arg("dim0"), len(axes)), dim_of(site.arg("dim1"), len(axes))
        axes[i], axes[j] = axes[j], axes[i]
    site.moved(axes)


@movement.rule("aten.t", "aten.numpy_T", "aten.t_", text="(a, b) -> (b, a)")
def reverse_axes(site: Site) -> None:
    """All axes in reverse order."""
    site.moved(site.axes("self")[::-1])


@movement.rule("aten.movedim", text="(a, b, …) -> (b, a, …)")
def movedim(site: Site) -> None:
    """Some axes go elsewhere."""
    axes = site.axes("self")
    source, target = site.arg("source"), site.arg("destination")
    pairs = sorted(zip((dim_of(d, len(axes)) for d in target), (dim_of(d, len(axes)) for d in source), strict=True))
    rest = [axis for i, axis in enumerate(axes) if i not in {s for _, s in pairs}]
    for position, origin in pairs:
        rest.insert(position, axes[origin])
    site.moved(rest)


@movement.rule("aten.unsqueeze", "aten.unsqueeze_", text="(a) -> (a, 1)")
def unsqueeze(site: Site) -> None:
    """A new axis of size one."""
    axes = site.axes("self")
    axes.insert(dim_of(site.arg("dim"), len(axes) + 1), ())
    site.moved(axes)


@movement.rule("aten.squeeze", "aten.squeeze_", text="(a, 1) -> (a)")
def squeeze(site: Site) -> None:
    """Axes of size one go."""
    axes = site.axes("self")
    dims = range(len(axes)) if not site.has("dim") else site.arg("dim")
    chosen = {dim_of(d, len(axes)) for d in ([dims] if isinstance(dims, int) else dims)}
    site.moved([axis for i, axis in enumerate(axes) if not (i in chosen and size(axis) == 1)])


@movement.rule("aten.expand", "aten.broadcast_to", text="(a, 1) -> (a, n)  the new axis holds one value n times")
def expand(site: Site) -> None:
    """A stretched axis is new: its coordinates are alike, and any of them may go."""
    shape = site.result_shape()
    old = site.axes("self")
    old = [()] * (len(shape) - len(old)) + old
    axes = [axis if size(axis) == extent else site.alike(extent) for axis, extent in zip(old, shape, strict=True)]
    site.sizes("size", axes)
    site.moved(axes)


@movement.rule("aten.repeat", text="(a) -> (n·a)")
def repeat(site: Site) -> None:
    """Each axis n times over, n outermost; the copies are alike."""
    old = site.axes("self")
    repeats = site.arg("repeats")
    old = [()] * (len(repeats) - len(old)) + old
    outer = [site.alike(n) for n in repeats]
    site.literal("repeats", [SizeOf(axis, n) for axis, n in zip(outer, repeats, strict=True)])
    site.moved([(*new, *axis) for new, axis in zip(outer, old, strict=True)])


@movement.rule("aten.as_strided", "aten.as_strided_", "aten.as_strided_copy", text="(…) -> (…)  where it changes nothing")
def as_strided(site: Site) -> None:
    """Meta kernels re-stride results in place; with the same shape that is the identity. What user code asks for may be a transpose."""
    if site.shape("self") != site.result_shape() or site.call.name != "aten.as_strided_":
        raise NotImplementedError("as_strided reads memory, not axes")
    site.sizes("size", site.axes("self"))
    site.moved(site.axes("self"))


@movement.rule("aten.pixel_shuffle", text="(…, c·r·s, h, w) -> (…, c, h·r, w·s)")
def pixel_shuffle(site: Site) -> None:
    """Blocks of channels become positions: the block's own index stays whole."""
    r = site.arg("upscale_factor")
    *lead, c, h, w = site.axes("self")
    channels, down, right = site.algebra.reshape([c], [size(c) // (r * r), r, r])
    for part in (down, right):
        site.freeze(part, "turns it into positions")
    site.touch(channels)
    site.give([*lead, channels, (*h, *down), (*w, *right)])


@movement.rule("aten.pixel_unshuffle", text="(…, c, h·r, w·s) -> (…, c·r·s, h, w)")
def pixel_unshuffle(site: Site) -> None:
    """Positions become blocks of channels."""
    r = site.arg("downscale_factor")
    *lead, c, h, w = site.axes("self")
    rows, down = site.algebra.reshape([h], [size(h) // r, r])
    columns, right = site.algebra.reshape([w], [size(w) // r, r])
    for part in (down, right, rows, columns):
        site.freeze(part, "comes from positions")
    site.give([*lead, (*c, *down, *right), rows, columns])


@movement.rule("aten.channel_shuffle", "aten.native_channel_shuffle", text="(b, g·c, …) -> (b, c·g, …)")
def channel_shuffle(site: Site) -> None:
    """A transpose inside the channel axis; the module's literal needs equal groups, so both parts bind."""
    b, channels, *rest = site.axes("self")
    groups = site.arg("groups")
    outer, inner = site.algebra.reshape([channels], [groups, size(channels) // groups])
    site.touch(outer, inner)
    site.literal("groups", SizeOf(outer, groups))
    site.give([b, (*inner, *outer), *rest])


@movement.rule("aten.unflatten", text="(a·b) -> (a, b)")
def unflatten(site: Site) -> None:
    """One axis becomes several."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dim"), len(axes))
    sizes = site.result_shape()[dim : dim + len(site.arg("sizes"))]
    parts = site.algebra.reshape([axes[dim]], sizes)
    site.sizes("sizes", parts)
    site.moved([*axes[:dim], *parts, *axes[dim + 1 :]])


@movement.rule("aten.view_as_real", "aten.view_as_complex", "aten.real", "aten.imag", text="(…) -> (…, 2) and back")
def complex_view(site: Site) -> None:
    """The pair of real and imaginary part is an axis of its own, never cut."""
    axes: list[Axis] = site.axes("self")
    before, after = len(axes), len(site.result_shape())
    if after > before:
        axes.append(site.free(2, "holds real and imaginary part"))
    elif after < before:
        site.freeze(axes.pop(), "holds real and imaginary part")
    site.moved(axes)


@movement.rule("aten.flatten", text="(a, b) -> (a·b)")
def flatten(site: Site) -> None:
    """Some axes become one."""
    assert math.prod(site.result_shape()) == math.prod(site.shape("self"))
    site.moved(site.algebra.reshape(site.axes("self"), site.result_shape()))
