"""Attention in the styles of blocks/attention.py and of torch's own modules."""

from __future__ import annotations

from tests.networks.blocks.attention import (
    ChunkedAttention,
    CrossAttention,
    FusedAttention,
    GroupedQueryAttention,
    InterleavedAttention,
    LinearAttention,
    MergedHeadsAttention,
    MultiQueryAttention,
    NormedAttention,
    PackedAttention,
    PoolingAttention,
    SeparateAttention,
    TalkingAttention,
)
from tests.networks.blocks.image_attention import ChannelAttention, EinsumAttention, ImageAttention, WindowAttention
from tests.networks.body import Body, Value
from tests.networks.family import Family
from tests.networks.fitting import divisible, take
from tests.networks.operators.joins import beside

attention = Family("attention")


def _sequence(body: Body, factor: int = 1) -> tuple[Value, int]:
    """A sequence and a number of heads that fit; a head's width is a multiple of `factor`."""
    heads = body.genes.pick(2, 3, 4, 1)
    return divisible(body, take(body, "sequence"), heads * factor), heads


def _finish(body: Body, x: Value, out: str) -> None:
    """The attention's result, mostly as a residual branch."""
    body.like(x, body.genes.pick(f"{x} + {out}", out, f"{out} + {x}"), degree=x.degree)


@attention.operator(weight=3)
def attention_packed(body: Body) -> None:
    x, heads = _sequence(body)
    match body.genes.pick("packed", "fused", "chunked", "interleaved", "merged"):
        case "packed":
            layer = body.block(PackedAttention, x.c, heads, body.genes.pick(True, False))
        case "fused":
            layer = body.block(FusedAttention, x.c, heads, body.genes.pick(False, True))
        case "chunked":
            layer = body.block(ChunkedAttention, x.c, heads)
        case "interleaved":
            layer = body.block(InterleavedAttention, x.c, heads)
        case _:
            layer = body.block(MergedHeadsAttention, x.c, heads)
    _finish(body, x, f"{layer}({x})")


@attention.operator(weight=2)
def attention_separate(body: Body) -> None:
    x, heads = _sequence(body)
    _finish(body, x, f"{body.block(SeparateAttention, x.c, heads, x.shape[0])}({x})")


@attention.operator(weight=2)
def attention_grouped_queries(body: Body) -> None:
    heads, pairs = body.genes.pick((2, 1), (4, 2), (6, 2), (4, 1), (3, 3))
    x = divisible(body, take(body, "sequence"), heads)
    style = body.genes.pick("repeat", "expand", "fused")
    _finish(body, x, f"{body.block(GroupedQueryAttention, x.c, heads, pairs, repr(style).replace(chr(39), chr(34)))}({x})")


@attention.operator(weight=1)
def attention_multi_query(body: Body) -> None:
    x, heads = _sequence(body)
    _finish(body, x, f"{body.block(MultiQueryAttention, x.c, heads)}({x})")


@attention.operator(weight=2)
def attention_cross(body: Body) -> None:
    x, heads = _sequence(body)
    y = beside(body, x)
    _finish(body, x, f"{body.block(CrossAttention, x.c, y.c, heads)}({x}, {y})")


@attention.operator(weight=2)
def attention_normed_rotary(body: Body) -> None:
    x, heads = _sequence(body, 2)
    _finish(body, x, f"{body.block(NormedAttention, x.c, heads, x.shape[0])}({x})")


@attention.operator(weight=1)
def attention_talking(body: Body) -> None:
    x, heads = _sequence(body)
    _finish(body, x, f"{body.block(TalkingAttention, x.c, heads, x.shape[0])}({x})")


@attention.operator(weight=1)
def attention_linear(body: Body) -> None:
    x, heads = _sequence(body)
    _finish(body, x, f"{body.block(LinearAttention, x.c, heads)}({x})")


@attention.operator(weight=1)
def attention_pooling(body: Body) -> None:
    x, heads = _sequence(body)
    body.let(f"{body.block(PoolingAttention, x.c, heads)}({x})", "vector", (x.c,), x.degree)


@attention.operator(weight=2)
def attention_image(body: Body) -> None:
    heads = body.genes.pick(2, 1, 3)
    x = divisible(body, take(body, "image"), heads)
    match body.genes.pick("convolutions", "einsum", "channels"):
        case "convolutions":
            layer = body.block(ImageAttention, x.c, heads, body.genes.pick(3, 2))
        case "einsum":
            layer = body.block(EinsumAttention, x.c, heads)
        case _:
            layer = body.block(ChannelAttention, x.c, heads)
    body.like(x, f"{layer}({x})")


@attention.operator(weight=2)
def attention_windows(body: Body) -> None:
    heads = body.genes.pick(2, 3)
    x = divisible(body, take(body, "grid", least=2), heads)
    h, w = (size // 2 * 2 for size in x.spatial)
    if (h, w) != x.spatial:
        x.used = True
        x = body.let(f"{x}[:, :{h}, :{w}]", "grid", (h, w, x.c), x.degree)
    x.used = True
    body.like(x, f"{body.block(WindowAttention, x.c, heads, 2, body.genes.pick(0, 1))}({x})")


@attention.operator(weight=3)
def attention_module(body: Body) -> None:
    """nn.MultiheadAttention, batch first or not, with and without weights, self or cross."""
    x, heads = _sequence(body)
    first = body.genes.pick(True, False)
    bias = body.genes.pick("", ", bias=False", ", add_bias_kv=True")
    weights = body.genes.pick("need_weights=False", "need_weights=True", "average_attn_weights=False")
    q, options = (f"{x}", ", batch_first=True") if first else (f"{x}.transpose(0, 1)", "")
    if body.genes.pick(True, True, False):
        layer = body.attribute("attention", f"nn.MultiheadAttention({x.c}, {heads}{bias}{options})")
        arguments = f"{q}, {q}, {q}"
    else:
        y = beside(body, x)
        layer = body.attribute("attention", f"nn.MultiheadAttention({x.c}, {heads}, kdim={y.c}, vdim={y.c}{options})")
        k = f"{y}" if first else f"{y}.transpose(0, 1)"
        arguments = f"{q}, {k}, {k}"
    out = f"{layer}({arguments}, {weights})[0]"
    _finish(body, x, out if first else f"{out}.transpose(0, 1)")


@attention.operator(weight=2)
def transformer_layer(body: Body) -> None:
    """nn.TransformerEncoderLayer."""
    x, heads = _sequence(body)
    options = body.genes.pick("", ", norm_first=True", ', activation="gelu"')
    layer = body.attribute(
        "encoder", f"nn.TransformerEncoderLayer({x.c}, {heads}, {body.width() * 2}, dropout=0.1, batch_first=True{options})"
    )
    body.like(x, f"{layer}({x})", degree=1 if "norm_first" not in options else x.degree)


@attention.operator(weight=1)
def transformer_decoder_layer(body: Body) -> None:
    """nn.TransformerDecoderLayer, its memory another sequence."""
    x, heads = _sequence(body)
    y = beside(body, x)
    memory = f"{y}" if y.c == x.c else f"{body.attribute('fc', f'nn.Linear({y.c}, {x.c})')}({y})"
    layer = body.attribute("decoder", f"nn.TransformerDecoderLayer({x.c}, {heads}, {body.width() * 2}, dropout=0.0, batch_first=True)")
    body.like(x, f"{layer}({x}, {memory})", degree=1)
