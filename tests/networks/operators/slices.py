"""Channels are cut apart: split, chunk, slice, narrow, select, GLU, assignment to slices."""

from __future__ import annotations

from tests.networks.blocks.gates import CrossStage, PartialConv, PartialConvInPlace, ShuffleUnit
from tests.networks.body import Body, Value
from tests.networks.family import Family
from tests.networks.fitting import divisible, take
from tests.networks.layers import DIMENSIONS

slices = Family("slices")


def _parts(body: Body, x: Value, call: str, sizes: list[int]) -> list[Value]:
    names = [body.fresh("part") for _ in sizes]
    body.do(f"{', '.join(names)} = {call}")
    values = [Value(name, x.kind, x.sized(size), x.degree) for name, size in zip(names, sizes, strict=True)]
    body.values.extend(values)
    return values


def _axis(body: Body, x: Value) -> str:
    return body.genes.pick(f"{x.axis}", f"dim={x.axis}", f"dim={x.axis - len(x.shape) - 1}")


@slices.operator(weight=3)
def chunk(body: Body) -> None:
    """Equal parts, which go separate ways."""
    count = body.genes.pick(2, 2, 3)
    x = divisible(body, take(body), count)
    call = body.genes.pick(
        f"{x}.chunk({count}, {_axis(body, x)})",
        f"torch.chunk({x}, {count}, {_axis(body, x)})",
        f"torch.tensor_split({x}, {count}, {_axis(body, x)})",
    )
    _parts(body, x, call, [x.c // count] * count)


@slices.operator(weight=1)
def chunk_uneven(body: Body) -> None:
    """The last part is smaller: seven channels in two chunks are four and three."""
    x = divisible(body, take(body), 1, least=3)
    first = -(-x.c // 2)
    _parts(body, x, f"{x}.chunk(2, {_axis(body, x)})", [first, x.c - first])


@slices.operator(weight=3)
def split(body: Body) -> None:
    x = divisible(body, take(body), 1, least=4)
    first = body.genes.pick(x.c // 2, 1, x.c - 1, 2)
    call = body.genes.pick(
        f"{x}.split([{first}, {x.c - first}], {_axis(body, x)})", f"torch.split({x}, ({first}, {x.c - first}), {_axis(body, x)})"
    )
    _parts(body, x, call, [first, x.c - first])


@slices.operator(weight=2)
def split_size(body: Body) -> None:
    """One size for all parts, the last may be smaller."""
    x = divisible(body, take(body), 1, least=4)
    size = body.genes.pick(x.c // 2, -(-x.c // 2))
    whole, rest = divmod(x.c, size)
    _parts(body, x, f"{x}.split({size}, {_axis(body, x)})", [size] * whole + [rest] * (rest > 0))


@slices.operator(weight=3)
def slice_channels(body: Body) -> None:
    """Some of the channels; the others are read, too, or lost."""
    x = divisible(body, take(body), 1, least=4)
    at = body.genes.pick(x.c // 2, 1, x.c - 1)
    style = body.genes.pick("number", "shape", "narrow", "ends")
    here = {"number": f"{at}", "shape": f"{x}.shape[{x.axis}] // 2", "narrow": "", "ends": f"{at - x.c}"}[style]
    at = x.c // 2 if style == "shape" else at
    first = f"{x}.narrow({x.axis}, 0, {at})" if style == "narrow" else x.cut(f":{here}")
    second = f"{x}.narrow({x.axis}, {at}, {x.c - at})" if style == "narrow" else x.cut(f"{here}:")
    body.like(x, first, channels=at)
    if body.genes.pick(True, True, False):
        body.like(x, second, channels=x.c - at)


@slices.operator(weight=1)
def slice_strided(body: Body) -> None:
    """Even and odd channels."""
    x = divisible(body, take(body), 1, least=3)
    body.like(x, x.cut("::2"), channels=-(-x.c // 2))
    body.like(x, x.cut("1::2"), channels=x.c // 2)


@slices.operator(weight=1)
def select_channel(body: Body) -> None:
    """One fixed channel, as a gate of all."""
    x = divisible(body, take(body), 1, least=3)
    which = body.genes.pick("0", "1", "-1")
    one = body.genes.pick(f"{x}.select({x.axis}, {which}).unsqueeze({x.axis})", f"{x}.narrow({x.axis}, {x.c - 1}, 1)", x.cut("0:1"))
    body.like(x, f"{x} * torch.sigmoid({one})")


@slices.operator(weight=1)
def index_channels(body: Body) -> None:
    """Channels by a list of numbers."""
    x = divisible(body, take(body), 1, least=3)
    order = [*range(1, x.c), 0]
    if body.genes.flag():
        body.like(x, f"{x}.index_select({x.axis}, {body.buffer(f'torch.tensor({order})', 'order')})")
    else:
        body.like(x, x.cut(str(order)))


@slices.operator(weight=3)
def glu(body: Body) -> None:
    x = divisible(body, take(body), 2)
    match body.genes.pick("function", "module", "chunk", "sigmoid"):
        case "function":
            body.like(x, f"F.glu({x}, dim={x.axis})", channels=x.c // 2)
        case "module":
            body.like(x, f"{body.attribute('glu', f'nn.GLU({x.axis})')}({x})", channels=x.c // 2)
        case style:
            a, b = body.fresh("part"), body.fresh("part")
            body.do(f"{a}, {b} = {x}.chunk(2, dim={x.axis})")
            body.like(x, f"{a} * F.gelu(torch.tanh({b}))" if style == "chunk" else f"torch.sigmoid({a}) * {b}", channels=x.c // 2)


@slices.operator(weight=2)
def assign_slice(body: Body) -> None:
    """In place: a slice of a copy is written."""
    x = divisible(body, take(body), 1, least=3)
    y = body.like(x, body.genes.pick(f"{x}.clone()", f"{x} * 1.0"))
    half = x.c // 2
    target = y.cut(f":{half}")
    body.do(
        body.genes.pick(
            f"{target} = torch.tanh({x.cut(f'-{half}:')})",
            f"{target} += {x.cut(f'-{half}:')}",
            f"{target}.mul_(0.5)",
            f"{target} = 0.5",
            f"{target}.copy_(F.relu({x.cut(f':{half}')}))",
        )
    )


@slices.operator(weight=1)
def fill_new(body: Body) -> None:
    """A new tensor of a literal size, filled part by part."""
    x = divisible(body, take(body), 2)
    b, *sizes = body.sizes(x)
    made = body.genes.pick(
        f"{x}.new_zeros({', '.join([b, *sizes])})",
        f"torch.zeros_like({x})",
        f"torch.empty(({', '.join([b, *sizes])}), dtype={x}.dtype, device={x}.device)",
    )
    y = body.like(x, made)
    half = x.c // 2
    body.do(f"{y.cut(f':{half}')} = {x.cut(f'{half}:')}")
    body.do(f"{y.cut(f'{half}:')} = F.relu({x.cut(f':{half}')})")


@slices.operator(weight=2)
def split_transform(body: Body) -> None:
    """One half passes, the other goes through a layer; both are joined again."""
    x = divisible(body, take(body), 2)
    half = x.c // 2
    if x.kind in DIMENSIONS:
        layer = body.attribute("conv", f"nn.Conv{DIMENSIONS[x.kind]}d({half}, {half}, 3, padding=1)")
    else:
        layer = body.attribute("fc", f"nn.Linear({half}, {half})")
    a, b = body.fresh("part"), body.fresh("part")
    body.do(f"{a}, {b} = {x}.split({half}, {x.axis})")
    body.like(x, f"torch.cat([{body.genes.pick(f'{a}, {layer}({b})', f'{layer}({a}), {b}', f'{b}, {layer}({b} + {a})')}], {x.axis})")


@slices.operator(weight=2)
def split_block(body: Body) -> None:
    """Blocks that cut their channels inside, as modules."""
    match body.genes.pick("shuffle", "cross stage", "partial", "partial in place"):
        case "shuffle":
            x = divisible(body, take(body, "image", least=2), 2)
            body.like(x, f"{body.block(ShuffleUnit, x.c)}({x})")
        case "cross stage":
            x = take(body, "image")
            out = body.genes.pick(8, 6, 10)
            body.like(x, f"{body.block(CrossStage, x.c, out, body.genes.pick(1, 2))}({x})", channels=out)
        case style:
            x = divisible(body, take(body, "image"), 1, least=4)
            block = PartialConv if style == "partial" else PartialConvInPlace
            body.like(x, f"{body.block(block, x.c, x.c // body.genes.pick(4, 2))}({x})")
