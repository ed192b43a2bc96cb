"""Where branches meet: sums, products, maxima, concatenations."""

from __future__ import annotations

from tests.networks.blocks.gates import Excite
from tests.networks.body import Body, Value, text
from tests.networks.bridges import bridge
from tests.networks.family import Family
from tests.networks.fitting import take, take_map
from tests.networks.layers import DIMENSIONS, bounded, project, same_channels

joins = Family("joins")


def beside(body: Body, x: Value) -> Value:
    """Another live tensor, brought to the kind and the places of `x`; a layer of `x` itself where there is none."""
    others = sorted((value for value in reversed(body.values) if value is not x), key=lambda value: (value.used, value.kind != x.kind))
    if not others:
        y = project(body, x, body.width())
    else:
        y = body.genes.choose(others[:4])
        y.used = True
        y = same_places(body, x, bridge(body, y, x.kind)) if y.kind != "vector" or x.kind == "vector" else _spread(body, x, y)
    y.used = True
    return y


def _spread(body: Body, x: Value, y: Value) -> Value:
    """A vector at every place of `x`."""
    n = len(x.spatial)
    one = f"{y}[:, {'None, ' * n}:]" if x.last else f"{y}[:, :{', None' * n}]"
    return body.let(f"{one}.expand({text(('-1', *x.sized(-1)))})", x.kind, x.sized(y.c), y.degree)


def same_places(body: Body, x: Value, y: Value) -> Value:
    """`y` with the spatial sizes of `x`, interpolated."""
    if x.spatial == y.spatial:
        return y
    y.used = True
    if y.kind in DIMENSIONS:
        size = body.genes.pick(f"{x.spatial}", f"{x}.shape[2:]", f"{x}.shape[-{len(x.spatial)}:]")
        return body.let(f"F.interpolate({y}, size={size})", y.kind, y.sized(spatial=x.spatial), y.degree)
    before, after = (".transpose(1, 2)",) * 2 if y.kind == "sequence" else (".movedim(-1, 1)", ".movedim(1, -1)")
    return body.let(f"F.interpolate({y}{before}, size={x.spatial}){after}", y.kind, y.sized(spatial=x.spatial), y.degree)


@joins.operator(weight=5)
def add(body: Body) -> None:
    x = take(body)
    y = same_channels(body, beside(body, x), x.c)
    expression = body.genes.pick(
        f"{x} + {y}",
        f"torch.add({x}, {y}, alpha=0.5)",
        f"{x}.add({y})",
        f"{x} - {y}",
        f"torch.stack([{x}, {y}]).mean(0)",
        f"sum([{x}, {y}])",
    )
    y.used = True
    body.like(x, expression, degree=max(x.degree, y.degree))


@joins.operator(weight=5)
def residual(body: Body) -> None:
    """A layer beside the identity."""
    x = take(body)
    if x.kind in DIMENSIONS:
        layer = body.attribute("conv", f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {x.c}, 3, padding=1)")
    else:
        layer = body.attribute("fc", f"nn.Linear({x.c}, {x.c})")
    if body.genes.pick(False, False, True):
        y = body.like(x, f"{layer}({x})")
        body.do(f"{y} += {x}")
    else:
        body.like(x, body.genes.pick(f"{x} + {layer}(F.relu({x}))", f"{layer}({x}) + {x}", f"F.relu({layer}({x}).add_({x}))"))


@joins.operator(weight=2)
def residual_strided(body: Body) -> None:
    """A residual block with stride and a projection beside it."""
    x = take_map(body, least=2)
    n, channels = DIMENSIONS[x.kind], body.width()
    conv = body.attribute("conv", f"nn.Conv{n}d({x.c}, {channels}, 3, stride=2, padding=1)")
    down = body.attribute("down", f"nn.Sequential(nn.Conv{n}d({x.c}, {channels}, 1, stride=2, bias=False), nn.BatchNorm{n}d({channels}))")
    body.let(f"F.relu({conv}({x}) + {down}({x}))", x.kind, x.sized(channels, tuple((s + 1) // 2 for s in x.spatial)), x.degree)


@joins.operator(weight=2)
def multiply(body: Body) -> None:
    x = take(body)
    y = same_channels(body, beside(body, x), x.c)
    y.used = True
    a, b, degree = bounded(body, x, y)
    if body.genes.pick(False, False, True):
        body.like(x, f"{x} * torch.sigmoid({y})")
    else:
        body.like(x, body.genes.pick(f"{a} * {b}", f"torch.mul({a}, {b})"), degree=degree)


@joins.operator(weight=2)
def extremum(body: Body) -> None:
    x = take(body)
    y = same_channels(body, beside(body, x), x.c)
    y.used = True
    expression = body.genes.pick(
        f"torch.maximum({x}, {y})", f"torch.minimum({x}, {y})", f"torch.where({y} > 0, {x}, {y})", f"torch.lerp({x}, {y}, 0.3)"
    )
    body.like(x, expression, degree=max(x.degree, y.degree))


@joins.operator(weight=3)
def squeeze_excite(body: Body) -> None:
    x = take(body, "image")
    body.like(x, f"{body.block(Excite, x.c, body.genes.pick(4, 3, 6))}({x})")


@joins.operator(weight=2)
def gate_by_vector(body: Body) -> None:
    """A (b, c) vector, made of another tensor, times (b, c, h, w)."""
    x = take(body, "image", "line", "volume")
    others = [value for value in reversed(body.values) if value.kind == "vector"]
    v = same_channels(body, body.genes.choose(others) if others else bridge(body, x, "vector"), x.c)
    v.used = x.used = True
    n = len(x.spatial)
    wide = body.genes.pick(
        f"{v}[:, :{', None' * n}]",
        f"{v}" + ".unsqueeze(-1)" * n,
        f"{v}.reshape({v}.shape[0], -1{', 1' * n})",
        f"{v}.reshape(-1, {x.c}{', 1' * n})",
    )
    body.like(x, body.genes.pick(f"{x} * torch.sigmoid({wide})", f"torch.tanh({wide}) * {x}", f"{x} * torch.tanh({wide}).expand_as({x})"))


@joins.operator(weight=2)
def multiply_by_one_channel(body: Body) -> None:
    """One channel times many: nothing couples."""
    x = take(body)
    made = f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, 1, 1)" if x.kind in DIMENSIONS else f"nn.Linear({x.c}, 1)"
    mask = f"{body.attribute('mask', made)}({x})"
    body.like(x, body.genes.pick(f"{x} * torch.sigmoid({mask})", f"torch.tanh({mask}) * {x}", f"{x} + {mask}"))


@joins.operator(weight=4)
def cat(body: Body) -> None:
    x = take(body)
    parts = [x, beside(body, x)]
    if parts[1].c + x.c < 16 and body.genes.flag():
        parts.append(beside(body, x))
    axis = body.genes.pick(f"{x.axis}", f"dim={x.axis}", f"dim={x.axis - len(x.shape) - 1}")
    body.like(x, f"torch.cat([{text(parts)}], {axis})", degree=max(part.degree for part in parts), channels=sum(part.c for part in parts))


@joins.operator(weight=2)
def cat_of_one(body: Body) -> None:
    """`cat([x, x])`, and x beside what was made of it."""
    x = take(body)
    parts = body.genes.pick([f"{x}", f"{x}"], [f"{x}", f"-{x}"], [f"{x}", f"F.relu({x})", f"{x}"], [f"F.relu({x})", f"F.relu(-{x})"])
    body.like(x, f"torch.cat([{text(parts)}], dim={x.axis})", channels=x.c * len(parts))


@joins.operator(weight=2)
def cat_places(body: Body) -> None:
    """Side by side along a spatial axis: channels couple as in a sum."""
    x = take(body, "image", "sequence", "line")
    y = same_channels(body, beside(body, x), x.c)
    y.used = True
    axis = 1 if x.kind == "sequence" else len(x.shape)
    spatial = (*x.spatial[:-1], x.spatial[-1] + y.spatial[-1])
    body.let(f"torch.cat([{x}, {y}], dim={axis})", x.kind, x.sized(spatial=spatial), max(x.degree, y.degree))


@joins.operator(weight=2)
def stack(body: Body) -> None:
    """Two branches, weighted for each channel by a softmax over the branches (selective kernels)."""
    x = take_map(body)
    n = len(x.spatial)
    first = body.attribute("conv", f"nn.Conv{n}d({x.c}, {x.c}, 3, padding=1, groups={x.c})")
    second = body.attribute("conv", f"nn.Conv{n}d({x.c}, {x.c}, 1)")
    both = body.fresh("both")
    body.do(f"{both} = torch.stack([{first}({x}), {second}({x})], dim=1)")
    weights = body.attribute("fc", f"nn.Linear({x.c}, {2 * x.c})")
    pooled = f"{both}.sum(1).flatten(2).mean(2)"
    body.do(f"{both}w = {weights}({pooled}).view({x}.shape[0], 2, {x.c}{', 1' * n}).softmax(1)")
    body.like(x, f"({both} * {both}w).sum({body.genes.pick('1', 'dim=1')})")
