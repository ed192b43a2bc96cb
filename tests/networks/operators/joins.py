"""Concatenating and cutting, mostly along channels."""

from __future__ import annotations

from tests.networks.body import Body, Value, text
from tests.networks.bridges import bridge
from tests.networks.family import Family
from tests.networks.fitting import divisible, take
from tests.networks.layers import same_channels
from tests.networks.operators.gates import match, pair, places

joins = Family("joins")


def beside(body: Body, x: Value) -> Value:
    """Another tensor with the kind and the places of `x`, of any width."""
    y = take(body)
    y = bridge(body, y, x.kind)
    return y if y.spatial == x.spatial else _expanded(body, match(body, y, x), x)


def _expanded(body: Body, y: Value, x: Value) -> Value:
    y.used = True
    return body.let(f"{y}.expand(-1, {text(x.shape)})", x.kind, x.shape, y.degree) if y.shape != x.shape else y


@joins.operator(weight=5)
def concatenate(body: Body) -> None:
    x = take(body)
    y = beside(body, x)
    y.used = True
    dim = body.genes.pick(x.axis, -1 if x.last else x.axis - len(x.shape) - 1)
    a, b = body.genes.pick((x, y), (y, x))
    body.like(x, body.genes.pick(f"torch.cat([{a}, {b}], {dim})", f"torch.cat(({a}, {b}), dim={dim})"), channels=x.c + y.c, degree=max(x.degree, y.degree))


@joins.operator()
def concatenate_with_itself(body: Body) -> None:
    x = take(body)
    copies = body.genes.pick(f"[{x}, {x}]", f"[{x}, -{x}]", f"[F.relu({x}), F.relu(-{x})]")
    body.like(x, f"torch.cat({copies}, dim={x.axis})", channels=2 * x.c)


@joins.operator()
def concatenate_places(body: Body) -> None:
    """Tokens behind tokens, rows under rows."""
    x = take(body, "sequence", "image", "line")
    y = beside(body, x)
    y = same_channels(body, y, x.c)
    y.used = True
    axis = places(x)[0]
    spatial = (x.spatial[0] * 2, *x.spatial[1:])
    body.let(f"torch.cat([{x}, {y}], dim={axis})", x.kind, x.sized(spatial=spatial), max(x.degree, y.degree))


@joins.operator(weight=4)
def halves(body: Body) -> None:
    """Cut along channels into equal parts, one of which goes through an operator."""
    parts = body.genes.pick(2, 2, 3)
    x = divisible(body, take(body), parts)
    width = x.c // parts
    names = [body.fresh("part") for _ in range(parts)]
    left = ", ".join(names)
    body.do(
        body.genes.pick(
            f"{left} = {x}.chunk({parts}, dim={x.axis})",
            f"{left} = torch.split({x}, {width}, dim={x.axis})",
            f"{left} = {x}.split([{text((width,) * parts)}], {x.axis})",
            f"{left} = torch.chunk({x}, {parts}, {x.axis - len(x.shape) - 1})",
            f"{left} = {', '.join(x.cut(f'{i * width}:{(i + 1) * width}') for i in range(parts))}",
            f"{left} = torch.tensor_split({x}, {parts}, dim={x.axis})",
        )
    )
    for name in names:
        body.values.append(Value(name, x.kind, x.sized(width), x.degree))


@joins.operator(weight=3)
def part_of_channels(body: Body) -> None:
    """Some channels only, and the others elsewhere."""
    x = take(body)
    if x.c < 3:
        x = divisible(body, x, 2)
    at = body.genes.pick(x.c // 2, 1, x.c - 1)
    first, rest = body.genes.pick(
        (x.cut(f":{at}"), x.cut(f"{at}:")),
        (f"{x}.narrow({x.axis}, 0, {at})", f"torch.narrow({x}, {x.axis}, {at}, {x.c - at})"),
        (x.cut(f":-{x.c - at}"), x.cut(f"-{x.c - at}:")),
    )
    body.like(x, first, channels=at)
    body.like(x, rest, channels=x.c - at)


@joins.operator(weight=1)
def every_second_channel(body: Body) -> None:
    x = take(body)
    if x.c < 2:
        x = divisible(body, x, 2)
    body.like(x, x.cut("::2"), channels=(x.c + 1) // 2)
    body.like(x, x.cut("1::2"), channels=x.c // 2)


@joins.operator(weight=1)
def select_channel(body: Body) -> None:
    x = take(body, "image")
    body.like(x, body.genes.pick(f"{x} * {x}.select(1, 0).unsqueeze(1).sigmoid()", f"{x} + {x}[:, {x.c - 1}:]", f"{x} - {x}[:, 0][:, None]"))


@joins.operator(weight=1)
def index_channels(body: Body) -> None:
    """Advanced indexing with a fixed list."""
    x = take(body, "image", "vector")
    order = list(range(x.c))[::-1]
    body.like(x, body.genes.pick(f"{x}[:, {order}]", f"{x}.index_select(1, {body.buffer(f'torch.tensor({order})', 'order')})"))


@joins.operator()
def glu(body: Body) -> None:
    x = divisible(body, take(body), 2)
    body.like(x, body.genes.pick(f"F.glu({x}, dim={x.axis})", f"{body.attribute('glu', f'nn.GLU(dim={x.axis})')}({x})"), channels=x.c // 2)


@joins.operator()
def assign_slice(body: Body) -> None:
    """Some channels are written in place."""
    x, y = pair(body)
    half = max(1, x.c // 2)
    z = body.like(x, f"{x} * 1")
    y_expanded = f"{y}.expand_as({x})"
    where = f"[..., :{half}]" if x.last else f"[:, :{half}]"
    body.do(body.genes.pick(f"{z}{where} = ({y_expanded}){where}", f"{z}{where} += ({y_expanded}){where}", f"{z}{where} = 0"))
    if body.genes.flag():
        body.do(f"{z}{where}.mul_(0.5)")


@joins.operator()
def stack_and_reduce(body: Body) -> None:
    x, y = pair(body)
    y = _expanded(body, y, x)
    y.used = True
    body.like(x, f"torch.stack([{x}, {y}], dim=1).{body.genes.pick('sum(1)', 'mean(1)', 'amax(dim=1)', 'unbind(1)[0]')}" + f" + {y}", degree=max(x.degree, y.degree))


@joins.operator()
def cross_stage(body: Body) -> None:
    """C2f: halves of one convolution, a chain on the second, everything concatenated."""
    x = take(body, "image")
    c = body.genes.pick(4, 3, 6)
    first = body.attribute("cv", f"nn.Conv2d({x.c}, {2 * c}, 1)")
    steps = [body.attribute("m", f"nn.Conv2d({c}, {c}, 3, padding=1)") for _ in range(body.genes.pick(1, 2))]
    last = body.attribute("cv", f"nn.Conv2d({(2 + len(steps)) * c}, {x.c}, 1)")
    ys = body.fresh("ys")
    body.do(f"{ys} = list({first}({x}).chunk(2, 1))")
    for step in steps:
        body.do(f"{ys}.append(F.silu({step}({ys}[-1])))")
    body.like(x, f"{last}(torch.cat({ys}, 1))")
