"""Sums and products of two branches, with broadcasting."""

from __future__ import annotations

from tests.networks.body import Body, Value, text
from tests.networks.bridges import bridge
from tests.networks.family import Family
from tests.networks.fitting import take
from tests.networks.layers import DIMENSIONS, bounded, same_channels

gates = Family("gates")


def places(x: Value) -> tuple[int, ...]:
    """The axes that are neither batch nor channels."""
    return tuple(axis for axis in range(1, len(x.shape) + 1) if axis != x.axis)


def match(body: Body, y: Value, x: Value) -> Value:
    """`y` in a form that can be added to `x`: kind and channels of `x`, its places or one."""
    y.used = True
    y = same_channels(body, bridge(body, y, x.kind), x.c)
    y.used = True
    if y.spatial == x.spatial:
        return y
    if x.kind in DIMENSIONS and body.genes.flag():
        return body.let(f"F.interpolate({y}, size={x.spatial})", x.kind, x.shape, y.degree)
    return body.let(f"{y}.mean({places(y)}, keepdim=True)", x.kind, x.sized(spatial=(1,) * len(x.spatial)), y.degree)


def pair(body: Body) -> tuple[Value, Value]:
    x = take(body)
    y = match(body, take(body), x)
    y.used = True
    return x, y


@gates.operator(weight=8)
def residual_add(body: Body) -> None:
    x, y = pair(body)
    expression = body.genes.pick(f"{x} + {y}", f"{y} + {x}", f"torch.add({x}, {y})", f"{x} - {y}", f"{x}.add({y}, alpha=0.5)", f"torch.lerp({x}, {y}.expand_as({x}), 0.3)")
    body.like(x, expression, degree=max(x.degree, y.degree))


@gates.operator()
def add_in_place(body: Body) -> None:
    """`x += y` on a tensor that nobody has read yet."""
    x, y = pair(body)
    z = body.like(x, f"{x} * 0.5")
    body.do(f"{z} {body.genes.pick('+=', '-=')} {y}")


@gates.operator(weight=3)
def product(body: Body) -> None:
    x, y = pair(body)
    a, b, degree = bounded(body, x, y)
    body.like(x, body.genes.pick(f"{a} * {b}", f"torch.mul({a}, {b})", f"{a}.mul({b})"), degree=degree)


@gates.operator(weight=3)
def squeeze_excite(body: Body) -> None:
    x = take(body, "image")
    narrow = max(2, x.c // 2)
    if body.genes.flag():
        down, up = body.attribute("down", f"nn.Linear({x.c}, {narrow})"), body.attribute("up", f"nn.Linear({narrow}, {x.c})")
        gate = f"torch.sigmoid({up}(F.relu({down}({x}.mean((2, 3))))))"
        body.like(x, f"{x} * {gate}" + body.genes.pick("[:, :, None, None]", f".view({x}.shape[0], {x.c}, 1, 1)", ".unsqueeze(-1).unsqueeze(-1)"))
    else:
        gate = body.attribute("se", f"nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d({x.c}, {narrow}, 1), nn.SiLU(), nn.Conv2d({narrow}, {x.c}, 1), nn.Hardsigmoid())")
        body.like(x, f"{gate}({x}) * {x}")


@gates.operator(weight=3)
def spatial_gate(body: Body) -> None:
    """A (b, 1, h, w) map times every channel."""
    x = take(body, "image")
    layer = body.attribute("gate", f"nn.Conv2d({x.c}, 1, 3, padding=1)")
    body.like(x, f"{x} * torch.sigmoid({layer}({x}))")


@gates.operator()
def statistics_gate(body: Body) -> None:
    """CBAM's spatial attention: mean and maximum over channels."""
    x = take(body, "image")
    layer = body.attribute("gate", "nn.Conv2d(2, 1, 3, padding=1)")
    body.like(x, f"{x} * torch.sigmoid({layer}(torch.cat([{x}.mean(1, keepdim=True), {x}.amax(1, keepdim=True)], 1)))")


@gates.operator(weight=1)
def channel_convolution_gate(body: Body) -> None:
    """ECA: a 1-D convolution along the channels."""
    x = take(body, "image")
    layer = body.attribute("eca", "nn.Conv1d(1, 1, 3, padding=1, bias=False)")
    body.like(x, f"{x} * {layer}({x}.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1)")


@gates.operator(weight=3)
def channel_scale(body: Body) -> None:
    """LayerScale and affine layers by hand."""
    x = take(body)
    shape = x.per_channel()
    scale = body.parameter(*shape, hint="scale")
    match body.genes.pick("scale", "shift", "both"):
        case "scale":
            body.like(x, f"{x} * {scale}")
        case "shift":
            body.like(x, f"{x} + {scale}")
        case _:
            body.like(x, f"torch.addcmul({body.parameter(*shape, hint='shift')}, {x}, {scale})")


@gates.operator(weight=1)
def constant_scale(body: Body) -> None:
    """A buffer that the state dict holds, one number a channel."""
    x = take(body)
    buffer = body.buffer(f"torch.linspace(0.5, 1.5, {x.c}).reshape({text(x.per_channel())}{',' if len(x.per_channel()) == 1 else ''})")
    body.like(x, f"{x} * {buffer}")


@gates.operator(weight=1)
def outer_product(body: Body) -> None:
    """(b, c, 1) times (b, 1, d), flattened: every channel meets every other."""
    x = take(body, "vector")
    y = body.like(x, f"{body.attribute('fc', f'nn.Linear({x.c}, 3)')}({x})", channels=3)
    y.used = True
    a, b, degree = bounded(body, x, y)
    body.let(f"({a}.unsqueeze(2) * {b}.unsqueeze(1)).flatten(1)", "vector", (x.c * 3,), degree)
