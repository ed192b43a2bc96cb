"""Looking things up: embeddings, advanced indexing, gather and scatter."""

from __future__ import annotations

import math

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, dim_of
from fxsparse.axes.spec import apply_spec, unify_aligned
from fxsparse.axes.table import Family, aten
from fxsparse.tracing.tape import Ref

indexing = Family()


@indexing.rule("aten.embedding", text="(v!, d), (…) -> (…, d)")
def embedding(site: Site) -> None:
    """Rows of a table; words stay, dimensions may go."""
    bound = apply_spec(site, "(v!, d), (…) -> (…, d)", [site.arg("weight"), site.arg("indices")])
    if site.is_weight(site.arg("weight")):
        site.role(bound["d"], "produces")


@indexing.rule("aten._embedding_bag", "aten._embedding_bag_forward_only", "aten.embedding_bag", text="(v!, d), (n!), (b!) -> (b, d)")
def embedding_bag(site: Site) -> None:
    """Rows of a table, summed up by bags."""
    words, d = site.axes("weight")
    site.freeze(words, "looks words up in it")
    for ref in site.tensors[1:]:
        for axis in site.axes(ref):
            site.freeze(axis, "looks words up by it")
    site.touch(d)
    site.role(d, "produces")
    for index, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            shape = site.result_shape(index)
            made = [site.free(n, "counts bags") for n in shape]
            if index == 0:
                made[-1] = d
            elif len(shape) == 2:
                made[-1] = d if shape[-1] == size(d) else made[-1]
            site.give(made, index)


@indexing.rule("aten.index", "aten._unsafe_index", text="(i!, a), indices -> (…, a)")
def index(site: Site) -> None:
    """Advanced indexing: the indexed axes stay whole, the others pass."""
    axes, shape = site.axes("self"), site.result_shape()
    before, after, indexed = _looked_up(site, axes)
    made = len(shape) - (len(axes) - indexed)
    new: list[Axis] = [site.free(n, "indexes into it") for n in shape[len(before) : len(before) + made]]
    site.touch(*before, *after)
    site.give([*before, *new, *after])


def _looked_up(site: Site, axes: list[Axis]) -> tuple[list[Axis], list[Axis], int]:
    """The axes before and after those that the indices look into, in the order of the result, and how many they look into."""
    consumed: set[int] = set()
    position = 0
    for ref in site.arg("indices"):
        width = _mask_width(site, ref) if isinstance(ref, Ref) else 1
        if isinstance(ref, Ref):
            consumed.update(range(position, position + width))
            for axis in site.axes(ref):
                site.freeze(axis, "indexes by it")
        position += width
    for i in consumed:
        site.freeze(axes[i], "indexes into it")
    rest = [axis for i, axis in enumerate(axes) if i not in consumed]
    adjacent = bool(consumed) and max(consumed) - min(consumed) + 1 == len(consumed)
    start = min(consumed) if adjacent else 0
    return rest[:start], rest[start:], len(consumed)


@indexing.rule(*aten("index_put index_put_ _index_put_impl_ _unsafe_index_put"), text="(i!, a), indices, (…, a) -> (i, a)")
def index_put(site: Site) -> None:
    """Values go where the indices say; along axes that are not indexed, entries of the same position meet. One value for all that a mask
    marks is element-wise."""
    axes, values = site.axes("self"), site.axes("values")
    mask = _whole_mask(site)
    if mask is not None and math.prod(map(size, values)) == 1:  # y[y < 0] = 0
        site.give(unify_aligned(site, axes, site.axes(mask)))
        return
    before, after, _ = _looked_up(site, axes)
    for back, value in enumerate(reversed(values)):
        if back < len(after):
            if size(value) != 1:
                site.algebra.unify(after[-1 - back], value)
        else:  # one of the axes that the indices make, or one before them: how many they make is not always known
            site.freeze(value, "indexes by it")
            for axis in before:
                site.freeze(axis, "is written by it")
    site.touch(*axes)
    site.give(axes)


def _whole_mask(site: Site) -> Ref | None:
    """The index, where it is nothing but one mask that speaks of each element."""
    indices = site.arg("indices")
    mask = indices[0] if len(indices) == 1 else None
    if not isinstance(mask, Ref) or str(site.tape.values[mask.id].dtype) != "torch.bool":
        return None
    return mask if len(site.shape(mask)) == len(site.shape("self")) else None


def _mask_width(site: Site, ref: Ref) -> int:
    """A boolean mask stands for as many axes as it has itself."""
    dtype = site.tape.values[ref.id].dtype
    return len(site.shape(ref)) if str(dtype) in ("torch.bool", "torch.uint8") else 1


@indexing.rule("aten.index_select", text="(i!, a), (n) -> (n, a)")
def index_select(site: Site) -> None:
    """Rows by a list of numbers."""
    axes = site.axes("self")
    dim = dim_of(site.arg("dim"), len(axes))
    site.freeze(axes[dim], "indexes into it")
    for axis in site.axes("index"):
        site.freeze(axis, "indexes by it")
    axes[dim] = site.free(site.result_shape()[dim], "indexes into it")
    site.touch(*axes)
    site.give(axes)


@indexing.rule(*aten("index_add index_add_ index_copy index_copy_ index_fill index_fill_"), text="(i!, a), (n!), (n!, a) -> (i, a)")
def by_row(site: Site) -> None:
    """Whole rows go to the places of a list."""
    axes = site.axes("self")
    source = site.axes("source") if site.has("source") else axes
    if not axes or len(source) != len(axes):
        return by_number(site)
    dim = dim_of(site.arg("dim"), len(axes))
    for axis in (axes[dim], source[dim], *site.axes("index")):
        site.freeze(axis, "works by number")
    for i in set(range(len(axes))) - {dim}:
        site.algebra.unify(axes[i], source[i])
    site.touch(*axes)
    site.give(axes)


@indexing.rule(
    *aten("gather scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_"), text="(i!, a), (n!, a), (n!, a) -> (i, a)"
)
def by_entry(site: Site) -> None:
    """Along one axis numbers decide; along the others, entries of the same position meet. Tensors that are cut short stay whole."""
    axes, index = site.axes("self"), site.axes("index")
    source = site.axes("src") if site.has("src") and isinstance(site.arg("src"), Ref) else index
    if not axes or not len(axes) == len(index) == len(source):
        return by_number(site)
    dim = dim_of(site.arg("dim"), len(axes))
    for i, triple in enumerate(zip(axes, index, source, strict=True)):
        if i != dim and len({size(axis) for axis in triple}) == 1:
            site.algebra.unify(axes[i], index[i])
            site.algebra.unify(axes[i], source[i])
        else:
            for axis in triple:
                site.freeze(axis, "works by number")
    result = index if site.call.name == "aten.gather" else axes
    site.touch(*result)
    site.give(result)


@indexing.rule(
    *aten(
        "take_along_dim bucketize searchsorted take masked_select nonzero masked_scatter masked_scatter_ unique _unique2 histc multinomial "
        "one_hot bincount unique_consecutive unique_dim"
    ),
    "torchvision.nms",
    "torchvision.deform_conv2d",
    text="(i!, …) -> (…)  everything stays whole",
)
def by_number(site: Site) -> None:
    """Numbers decide what goes where: nothing may change its number."""
    for ref in site.tensors:
        for axis in site.axes(ref):
            site.freeze(axis, "works by number")
    for i, result in enumerate(site.call.results):
        if isinstance(result, Ref):
            site.give([site.free(n, "works by number") for n in site.result_shape(i)], i)
