"""From one kind of tensor to another: the reshapes, transposes and reductions that stand between layers."""

from __future__ import annotations

from collections.abc import Callable

from tests.networks.body import Body, Kind, Value, text

Bridge = Callable[[Body, Value], Value]


def bridge(body: Body, x: Value, kind: Kind) -> Value:
    """`x` as a tensor of `kind`, by the fewest steps."""
    for way in _path(x.kind, kind):
        x.used = True
        x = body.genes.choose(BRIDGES[way])(body, x)
    return x


def _path(start: Kind, end: Kind) -> list[tuple[Kind, Kind]]:
    paths: dict[Kind, list[tuple[Kind, Kind]]] = {start: []}
    queue = [start]
    while end not in paths:
        here = queue.pop(0)
        for way in BRIDGES:
            if way[0] == here and way[1] not in paths:
                paths[way[1]] = [*paths[here], way]
                queue.append(way[1])
    return paths[end]


def _rectangle(n: int) -> tuple[int, int]:
    height = max(h for h in range(1, int(n**0.5) + 1) if n % h == 0)
    return height, n // height


def _written(template: str, kind: Kind, order: str, *, degree: int | None = None) -> Bridge:
    """A bridge of one expression; `order` says which of the old sizes, numbered without the batch, make up the new ones: `0 1*2`."""

    def write(body: Body, x: Value) -> Value:
        shape = []
        for entry in order.split():
            size = 1
            for factor in entry.split("*"):
                size *= x.shape[int(factor)]
            shape.append(size)
        return body.let(template.format(x=x), kind, tuple(shape), x.degree if degree is None else degree)

    return write


def _flat_linear(body: Body, x: Value) -> Value:
    """Flatten everything, then a Linear: the channels meet every place."""
    size = 1
    for each in x.shape:
        size *= each
    batch = body.sizes(x)[0]
    flat = body.genes.pick(f"{x}.flatten(1)", f"torch.flatten({x}, 1)", f"{x}.reshape({batch}, -1)", f"{x}.reshape({batch}, {size})")
    width = body.genes.pick(6, 8, 5, 12)
    return body.let(f"{body.attribute('fc', f'nn.Linear({size}, {width})')}({flat})", "vector", (width,))


def _pooled(body: Body, x: Value) -> Value:
    """Global pooling over all places, through modules or functions."""
    places = tuple(axis for axis in range(1, len(x.shape) + 1) if axis != x.axis)
    n = len(places)
    if x.last:
        expression = body.genes.pick(f"{x}.mean({places})", f"{x}.mean(dim={list(places)})", f"{x}.amax({places})")
    else:
        pool = body.genes.pick("avg", "max")
        expression = body.genes.pick(
            f"{x}.mean({places})",
            f"F.adaptive_{pool}_pool{n}d({x}, 1).flatten(1)",
            f"F.adaptive_{pool}_pool{n}d({x}, 1).view({x}.size(0), -1)",
            f"F.adaptive_{pool}_pool{n}d({x}, 1)" + ".squeeze(-1)" * n,
            f"{x}.flatten(2).sum(-1) / {_product(x.spatial)}",
            f"{x}.amax({places})",
        )
    return body.let(expression, "vector", (x.c,), x.degree)


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _one_place(body: Body, x: Value) -> Value:
    """The class token, or the last step of a sequence."""
    axes = len(x.shape) - 1
    if x.last:
        return body.let(f"{x}[{text((':', *body.genes.pick(('0',) * axes, ('-1',) * axes)))}]", "vector", (x.c,), x.degree)
    return body.let(f"{x}[{text((':', ':', *body.genes.pick(('0',) * axes, ('-1',) * axes)))}]", "vector", (x.c,), x.degree)


def _sequence_to_image(body: Body, x: Value) -> Value:
    h, w = _rectangle(x.shape[0])
    b, n, c = body.sizes(x)
    expression = body.genes.pick(
        f"{x}.transpose(1, 2).reshape({b}, {c}, {h}, {w})",
        f"{x}.transpose(1, 2).unflatten(2, ({h}, {w}))",
        f"{x}.permute(0, 2, 1).contiguous().view({b}, -1, {h}, {w})",
        f"{x}.reshape({b}, {h}, {n} // {h}, {c}).permute(0, 3, 1, 2)",
    )
    return body.let(expression, "image", (x.c, h, w), x.degree)


def _line_to_image(body: Body, x: Value) -> Value:
    h, w = _rectangle(x.shape[1])
    expression, size = body.genes.pick(
        (f"{x}.unflatten(2, ({h}, {w}))", (h, w)),
        (f"{x}.unsqueeze(2)", (1, x.shape[1])),
        (f"{x}[..., None]", (x.shape[1], 1)),
        (f"{x}.reshape({x}.shape[0], {x.c}, {h}, -1)", (h, w)),
    )
    return body.let(expression, "image", (x.c, *size), x.degree)


def _rows_to_channels(body: Body, x: Value) -> Value:
    """Channels and rows become one axis, if that is not too wide."""
    c, h, w = x.shape
    if c * h > 48:
        return body.let(f"{x}.flatten(-2)", "line", (c, h * w), x.degree)
    return body.let(f"{x}.flatten(1, 2)", "line", (c * h, w), x.degree)


def _image_to_volume(body: Body, x: Value) -> Value:
    """A new axis: of size one, or cut out of the channels."""
    c, h, w = x.shape
    d = next((d for d in (2, 3) if c % d == 0 and c > d), 1)
    if d > 1 and body.genes.pick(False, False, True):
        return body.let(f"{x}.unflatten(1, ({c // d}, {d}))", "volume", (c // d, d, h, w), x.degree)
    if body.genes.flag():
        return body.let(f"torch.stack([{x}, -{x}], dim=2)", "volume", (c, 2, h, w), x.degree)
    return body.let(f"{x}.unsqueeze(2)", "volume", (c, 1, h, w), x.degree)


def _vector_to_sequence(body: Body, x: Value) -> Value:
    """A Linear makes the tokens, or the channels are cut into them."""
    cut = next((n for n in (4, 3, 2) if x.c % n == 0 and x.c > n), 0)
    if cut and body.genes.pick(False, False, True):
        return body.let(f"{x}.reshape({x}.shape[0], {cut}, -1)", "sequence", (cut, x.c // cut), x.degree)
    n, c = body.genes.pick(3, 4, 6), body.genes.pick(4, 6, 8)
    layer = body.attribute("fc", f"nn.Linear({x.c}, {n * c})")
    expression = body.genes.pick(
        f"{layer}({x}).view(-1, {n}, {c})", f"{layer}({x}).unflatten(1, ({n}, {c}))", f"{layer}({x}).view({x}.shape[0], {n}, {c})"
    )
    return body.let(expression, "sequence", (n, c))


def _vector_to_line(body: Body, x: Value) -> Value:
    """Every channel becomes a line, or the channels are cut into lines."""
    cut = next((n for n in (4, 3, 2) if x.c % n == 0 and x.c > n), 0)
    if cut and body.genes.pick(False, False, True):
        return body.let(f"{x}.unflatten(1, ({x.c // cut}, {cut}))", "line", (x.c // cut, cut), x.degree)
    ramp = f"torch.linspace(-1, 1, 5, dtype={x}.dtype, device={x}.device)"
    wide = body.genes.pick(f"{x}.unsqueeze(2).expand(-1, -1, 5)", f"{x}[:, :, None].repeat(1, 1, 5)", f"{x}.unsqueeze(-1)")
    return body.let(f"{wide} * {ramp}", "line", (x.c, 5), x.degree)


def _vector_to_image(body: Body, x: Value) -> Value:
    c, h, w = body.genes.pick(4, 3, 6), body.genes.pick(4, 3), body.genes.pick(4, 5)
    layer = body.attribute("fc", f"nn.Linear({x.c}, {c * h * w})")
    view = body.genes.pick(f"view(-1, {c}, {h}, {w})", f"reshape({x}.size(0), {c}, {h}, {w})", f"unflatten(-1, ({c}, {h}, {w}))")
    return body.let(f"{layer}({x}).{view}", "image", (c, h, w))


BRIDGES: dict[tuple[Kind, Kind], tuple[Bridge, ...]] = {
    ("image", "sequence"): (
        _written("{x}.flatten(2).transpose(1, 2)", "sequence", "1*2 0"),
        _written("{x}.flatten(2).permute(0, 2, 1)", "sequence", "1*2 0"),
        _written("{x}.permute(0, 2, 3, 1).flatten(1, 2)", "sequence", "1*2 0"),
        _written("{x}.flatten(2).mT", "sequence", "1*2 0"),
        _written("{x}.mean(2).transpose(1, 2)", "sequence", "2 0"),
    ),
    ("image", "line"): (
        _written("{x}.flatten(2)", "line", "0 1*2"),
        _written("{x}.reshape({x}.shape[0], {x}.shape[1], -1)", "line", "0 1*2"),
        _written("{x}.mean(3)", "line", "0 1"),
        _rows_to_channels,
    ),
    ("image", "grid"): (
        _written("{x}.permute(0, 2, 3, 1)", "grid", "1 2 0"),
        _written("{x}.permute(0, 2, 3, 1).contiguous()", "grid", "1 2 0"),
        _written("{x}.movedim(1, -1)", "grid", "1 2 0"),
        _written("{x}.transpose(1, 2).transpose(2, 3)", "grid", "1 2 0"),
    ),
    ("image", "volume"): (_image_to_volume,),
    ("image", "vector"): (_pooled, _flat_linear, _one_place),
    ("grid", "image"): (
        _written("{x}.permute(0, 3, 1, 2)", "image", "2 0 1"),
        _written("{x}.permute([0, 3, 1, 2]).contiguous()", "image", "2 0 1"),
        _written("torch.movedim({x}, -1, 1)", "image", "2 0 1"),
    ),
    ("grid", "sequence"): (
        _written("{x}.flatten(1, 2)", "sequence", "0*1 2"),
        _written("{x}.reshape({x}.shape[0], -1, {x}.shape[-1])", "sequence", "0*1 2"),
        _written("{x}.mean(1)", "sequence", "1 2"),
    ),
    ("grid", "vector"): (_flat_linear, _pooled, _one_place),  # NHWC flatten -> Linear comes first
    ("sequence", "line"): (
        _written("{x}.transpose(1, 2)", "line", "1 0"),
        _written("{x}.permute(0, 2, 1).contiguous()", "line", "1 0"),
        _written("{x}.swapaxes(1, 2)", "line", "1 0"),
    ),
    ("sequence", "image"): (_sequence_to_image,),
    ("sequence", "vector"): (_pooled, _flat_linear, _one_place),
    ("line", "sequence"): (
        _written("{x}.transpose(1, 2)", "sequence", "1 0"),
        _written("{x}.permute(0, 2, 1)", "sequence", "1 0"),
        _written("torch.transpose({x}, -1, -2)", "sequence", "1 0"),
    ),
    ("line", "image"): (_line_to_image,),
    ("line", "vector"): (_pooled, _flat_linear, _one_place),
    ("volume", "image"): (
        _written("{x}.mean(2)", "image", "0 2 3"),
        _written("{x}.flatten(1, 2)", "image", "0*1 2 3"),  # channels and depth become one axis
        _written("{x}.flatten(2, 3)", "image", "0 1*2 3"),
        _written("{x}.amax(2)", "image", "0 2 3"),
        _written("{x}.transpose(1, 2).flatten(1, 2)", "image", "1*0 2 3"),  # the same, depth first
    ),
    ("volume", "vector"): (_pooled, _flat_linear, _one_place),
    ("vector", "sequence"): (_vector_to_sequence,),
    ("vector", "image"): (_vector_to_image,),
    ("vector", "line"): (_vector_to_line,),
}
