"""Operators that multiply and sum: matrix products and convolutions."""

from __future__ import annotations

import math

import torch

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Site, SizeOf
from fxsparse.axes.spec import apply_spec, macs, unify_aligned
from fxsparse.axes.table import Family, aten
from fxsparse.tracing.tape import Ref

contractions = Family()


@contractions.rule("aten.mm", text="(n, i), (i, o) -> (n, o)")
def mm(site: Site) -> None:
    """A matrix product."""
    bound = apply_spec(site, "(n, i), (i, o) -> (n, o)", [site.arg("self"), site.arg("mat2")])
    macs(site, bound["n"], bound["i"], bound["o"])


@contractions.rule("aten.addmm", text="(…), (n, i), (i, o) -> (n, o)")
def addmm(site: Site) -> None:
    """A matrix product and a bias that broadcasts."""
    bound = apply_spec(site, "(n, i), (i, o) -> (n, o)", [site.arg("mat1"), site.arg("mat2")])
    _add_bias(site)
    macs(site, bound["n"], bound["i"], bound["o"])


@contractions.rule("aten.bmm", text="(h, n, k), (h, k, m) -> (h, n, m)")
def bmm(site: Site) -> None:
    """A batch of matrix products: attention's heads are in the batch."""
    bound = apply_spec(site, "(h, n, k), (h, k, m) -> (h, n, m)", [site.arg("self"), site.arg("mat2")])
    _attention_labels(site, bound["h"], bound["k"])
    macs(site, bound["h"], bound["n"], bound["k"], bound["m"])


@contractions.rule("aten.baddbmm", "aten.baddbmm_", text="(…), (h, n, k), (h, k, m) -> (h, n, m)")
def baddbmm(site: Site) -> None:
    """A batch of matrix products and a summand that broadcasts."""
    bound = apply_spec(site, "(h, n, k), (h, k, m) -> (h, n, m)", [site.arg("batch1"), site.arg("batch2")])
    _add_bias(site)
    _attention_labels(site, bound["h"], bound["k"])
    macs(site, bound["h"], bound["n"], bound["k"], bound["m"])


@contractions.rule("aten.mv", text="(n, i), (i) -> (n)")
def mv(site: Site) -> None:
    """A matrix times a vector."""
    bound = apply_spec(site, "(n, i), (i) -> (n)", [site.arg("self"), site.arg("vec")])
    macs(site, bound["n"], bound["i"])


@contractions.rule("aten.dot", "aten.vdot", text="(i), (i) -> ()")
def dot(site: Site) -> None:
    """The sum over products of two vectors."""
    apply_spec(site, "(i), (i) -> ()", site.tensors)


@contractions.rule(
    "aten._grouped_mm", "transformers.grouped_mm_fallback", text="(s, i), (e!, i, o), (e!) -> (s, o)  rows are dealt out among matrices"
)
def grouped_mm(site: Site) -> None:
    """Matrix products of experts: rows in the order of the experts that they go to, and the offsets at which each one's end."""
    rows, experts, *rest = site.tensors
    if [len(site.shape(each)) for each in (rows, experts)] != [2, 3] or len(rest) != 1:
        raise NotImplementedError("a grouped product is followed where rows meet a stack of matrices, without a bias")
    bound = apply_spec(site, "(s, i), (e, i, o), (e) -> (s, o)", [rows, experts, *rest])
    site.freeze(bound["e"], "tells experts apart")
    if site.call.op is torch.ops.aten._grouped_mm.default:  # rows of 16 bytes
        step = max(1, 16 // site.tape.values[rows.id].dtype.itemsize)
        site.book.steps.extend((bound[each], step, site.call.name) for each in "io")
    macs(site, bound["s"], bound["i"], bound["o"])


def _add_bias(site: Site) -> None:
    bias = site.axes("self")
    if bias and site.is_weight(site.arg("self")):
        site.role(bias[-1], "produces")
    result = site.results[0]
    unify_aligned(site, result, bias)


def _attention_labels(site: Site, heads: tuple, inner: tuple) -> None:  # type: ignore[type-arg]
    site.algebra.label(heads, "heads")
    site.algebra.label(inner, "head_dim")


@contractions.rule("aten._trilinear", text="bilinear: (n, i), (o, i, j), (n, j) -> (n, o)")
def trilinear(site: Site) -> None:
    """The sum over products of three operands, each without the axes that it is expanded along. Behind nn.Bilinear."""
    operands = [site.arg(name) for name in ("i1", "i2", "i3")]
    without = [site.arg(name) for name in ("expand1", "expand2", "expand3")]
    letters = "abcdefgh"[: len(site.axes(operands[0])) + len(without[0])]
    summed = site.arg("sumdim")

    def tensor(lacks: list[int]) -> str:
        return f"({', '.join(letter for axis, letter in enumerate(letters) if axis not in lacks)})"

    bound = apply_spec(site, f"{', '.join(map(tensor, without))} -> {tensor(summed)}", operands)
    macs(site, *bound.values())


@contractions.rule(
    "aten._cdist_forward", "aten._euclidean_dist", text="(…, n!, k), (…, m!, k) -> (…, n, m)  what lacks in both is no distance"
)
def distances(site: Site) -> None:
    """Distances of rows. No product: where one operand has a zero, what the other has there counts, so a weight must lack it as well."""
    lead: list[Axis] = []
    rows, inner = [], []
    for ref in site.tensors:
        *more, row, k = site.axes(ref)
        lead = unify_aligned(site, lead, more)
        site.freeze(row, "measures from it")
        if site.is_weight(ref):
            site.role(k, "produces")
        rows.append(row)
        inner.append(k)
    site.algebra.unify(*inner)
    site.touch(*lead, *inner)
    power = site.arg("p") if site.has("p") else 2.0
    if 0 < power < math.inf:
        site.meeting(inner[0])
    else:
        site.freeze(inner[0], "counts it, or takes its greatest")
    site.give([*lead, *rows])


LETTERS = ("x", "y", "z")


@contractions.rule(
    "aten.convolution",
    "aten._convolution",
    "aten.convolution_overrideable",
    text="(b, g·i, x!), (g·o, i, k!), (g·o) -> (b, g·o, u)   transposed: (b, g·i, x!), (g·i, o, k!), (g·o) -> (b, g·o, u)   "
    "x -> x for a kernel of one",
)
def convolution(site: Site) -> None:
    """1 to 3 dimensions, strided, dilated, grouped, transposed, with or without batch."""
    groups = site.arg("groups")
    n = len(site.shape("weight")) - 2
    alone = _one_place(site, n)
    positions = "".join(f", {letter}" if one else f", {letter}!" for letter, one in zip(LETTERS, alone, strict=False))
    kernel = "".join(f", k{letter}!" for letter in LETTERS[:n])
    made = "".join(f", {letter}" if one else f", u{letter}" for letter, one in zip(LETTERS, alone, strict=False))
    # A plain convolution has no group axis at all; a depthwise one has i = 1, so that only the group and the multiplier are left.
    g = "g·" if groups > 1 else ""
    weight = f"({g}i, o{kernel})" if site.arg("transposed") else f"({g}o, i{kernel})"
    bound = apply_spec(
        site,
        f"(b, {g}i{positions}), {weight}, ({g}o) -> (b, {g}o{made})",
        [site.arg("input"), site.arg("weight"), site.arg("bias")],
        {"g": groups},
    )
    if groups > 1:
        site.literal("groups", SizeOf(bound["g"], groups))
        inner = size(bound["i"]) > 1 or size(bound["o"]) > 1
        site.algebra.label(bound["g"], "groups" if inner else "channels")
        site.algebra.label((*bound["i"], *bound["o"]), "group_channels")
    if site.arg("transposed") and n:
        input_positions = site.axes("input")[2:]
        macs(
            site, bound["b"], bound["i"], bound["o"], bound.get("g", ()), *input_positions, *(bound[f"k{letter}"] for letter in LETTERS[:n])
        )
    else:
        macs(
            site,
            bound["b"],
            bound["i"],
            bound["o"],
            bound.get("g", ()),
            *site.results[0][2:],
            *(bound[f"k{letter}"] for letter in LETTERS[:n]),
        )


def _one_place(site: Site, n: int) -> list[bool]:
    """For each dimension whether every place is made of the one place before it: such a convolution is a matrix product at each of them."""

    def each(name: str) -> list[int]:
        given = list(site.arg(name))
        return given * n if len(given) == 1 else given

    return [
        kernel == stride == 1 and not padding and not more
        for kernel, stride, padding, more in zip(
            site.shape("weight")[2:], each("stride"), each("padding"), each("output_padding"), strict=True
        )
    ]


@contractions.rule(
    *aten(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable scaled_dot_product_attention _scaled_dot_product_attention_math "
        "_scaled_dot_product_attention_math_for_mps"
    ),
    text="(b, h, n, k), (b, h, m, k), (b, h, m, v), mask (…, n!, m!) -> (b, h, n, v)",
)
def attention(site: Site) -> None:
    """Fused attention. With grouped queries, each key head serves a run of query heads."""
    q, k, v = site.axes("query"), site.axes("key"), site.axes("value")
    algebra = site.algebra
    for i in range(len(q) - 3):
        algebra.unify(q[i], k[i])
        algebra.unify(q[i], v[i])
    key_heads, query_heads = (k[-3], q[-3]) if len(q) > 2 else ((), ())
    if size(key_heads) not in (size(query_heads), 1):
        per_key, _ = algebra.reshape([query_heads], [size(key_heads), size(query_heads) // size(key_heads)])
        algebra.unify(per_key, key_heads)
    elif size(key_heads) == size(query_heads):
        algebra.unify(query_heads, key_heads)
    algebra.unify(key_heads, v[-3] if len(q) > 2 else ())
    algebra.unify(q[-1], k[-1])
    algebra.unify(k[-2], v[-2])
    site.meeting(q[-1], k[-1])
    for axis in (q[-2], k[-2]):
        site.freeze(axis, "attends over it")
    site.touch(*q, *k, *v)
    mask_name = next((name for name in ("attn_mask", "attn_bias") if site.has(name)), None)
    mask = site.arg(mask_name) if mask_name else None
    if isinstance(mask, Ref):
        unify_aligned(site, [*q[:-2], q[-2], k[-2]], site.axes(mask))
    algebra.label(query_heads, "heads")
    algebra.label((*q[-1], *v[-1]), "head_dim")
    site.give([*q[:-1], v[-1]])
    for index in range(1, len(site.call.results)):
        site.give([site.free(n, "is bookkeeping of the kernel") for n in site.result_shape(index)], index)
    macs(site, *q[:-1], k[-2], q[-1])
    macs(site, *q[:-1], k[-2], v[-1])
