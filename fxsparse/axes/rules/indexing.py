"""Looking things up: embeddings, advanced indexing, gather and scatter."""

from __future__ import annotations

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, dim_of
from fxsparse.axes.spec import apply_spec
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
    axes = site.axes("self")
    indices = site.arg("indices")
    used = [i for i, ref in enumerate(indices) if isinstance(ref, Ref)]
    shape = site.result_shape()
    made = len(shape) - (len(axes) - _indexed(site, used))
    for ref in (indices[i] for i in used):
        for axis in site.axes(ref):
            site.freeze(axis, "indexes by it")
    consumed: set[int] = set()
    position = 0
    for ref in indices:
        width = _mask_width(site, ref) if isinstance(ref, Ref) else 1
        if isinstance(ref, Ref):
            consumed.update(range(position, position + width))
        position += width
    for i in consumed:
        site.freeze(axes[i], "indexes into it")
    rest = [axis for i, axis in enumerate(axes) if i not in consumed]
    adjacent = bool(consumed) and max(consumed) - min(consumed) + 1 == len(consumed)
    start = min(consumed) if adjacent else 0
    new: list[Axis] = [site.free(n, "indexes into it") for n in shape[start : start + made]]
    site.touch(*rest)
    site.give([*rest[:start], *new, *rest[start:]])


def _mask_width(site: Site, ref: Ref) -> int:
    """A boolean mask stands for as many axes as it has itself."""
    dtype = site.tape.values[ref.id].dtype
    return len(site.shape(ref)) if str(dtype) in ("torch.bool", "torch.uint8") else 1


def _indexed(site: Site, used: list[int]) -> int:
    return sum(_mask_width(site, site.arg("indices")[i]) for i in used)


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


@indexing.rule(
    *aten(
        "gather scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_put index_put_ _index_put_impl_ "
        "_unsafe_index_put index_add index_add_ index_copy index_copy_ take_along_dim index_fill index_fill_ bucketize "
        "searchsorted take masked_select nonzero masked_scatter masked_scatter_ unique _unique2 histc multinomial one_hot "
        "bincount unique_consecutive unique_dim"
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
