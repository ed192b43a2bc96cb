"""Linear layers on the last axis, and matrix products with raw parameters."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take
from tests.networks.layers import project

linears = Family("linears")


@linears.operator(weight=5)
def linear(body: Body) -> None:
    project(body, take(body, "vector", "sequence", "grid"), body.width())


@linears.operator(weight=4)
def mlp(body: Body) -> None:
    x = take(body, "vector", "sequence", "grid")
    hidden, out = body.width() * 2, body.width()
    first, second = body.attribute("fc", f"nn.Linear({x.c}, {hidden})"), body.attribute("fc", f"nn.Linear({hidden}, {out})")
    body.like(x, f"{second}({body.genes.pick('F.gelu', 'F.relu', 'F.silu', 'torch.tanh')}({first}({x})))", channels=out)


@linears.operator(weight=2)
def linear_functional(body: Body) -> None:
    x = take(body, "sequence", "vector", "grid")
    channels = body.width()
    bias = f", {body.parameter(channels, hint='bias')}" if body.genes.flag() else ""
    body.like(x, f"F.linear({x}, {body.parameter(channels, x.c)}{bias})", channels=channels)


@linears.operator(weight=2)
def matmul(body: Body) -> None:
    x = take(body, "sequence", "vector", "grid")
    channels = body.width()
    turned = body.genes.flag()
    weight = body.parameter(channels, x.c) if turned else body.parameter(x.c, channels)
    matrix = body.genes.pick(f"{weight}.t()", f"{weight}.T", f"{weight}.transpose(0, 1)") if turned else weight
    expression = body.genes.pick(f"{x} @ {matrix}", f"torch.matmul({x}, {matrix})", f"torch.tensordot({x}, {matrix}, dims=1)")
    body.like(x, expression, channels=channels)


@linears.operator(weight=1)
def addmm(body: Body) -> None:
    x = take(body, "vector")
    channels = body.width()
    weight, bias = body.parameter(x.c, channels), body.parameter(channels, hint="bias")
    body.like(x, body.genes.pick(f"torch.addmm({bias}, {x}, {weight})", f"torch.mm({x}, {weight}).add({bias})"), channels=channels)


@linears.operator(weight=1)
def linear_merged(body: Body) -> None:
    """Batch and places become one axis around a Linear."""
    x = take(body, "sequence", "grid")
    channels = body.width()
    layer = body.attribute("fc", f"nn.Linear({x.c}, {channels})")
    b, *places, c = body.sizes(x)
    flat = body.genes.pick(f"{x}.reshape(-1, {c})", f"{x}.flatten(0, {len(places)})")
    body.like(x, f"{layer}({flat}).reshape({', '.join([b, *places])}, {body.genes.pick(channels, -1)})", channels=channels)


@linears.operator(weight=1)
def linear_over_places(body: Body) -> None:
    """A Linear along the places, as MLP-Mixer does: the channels ride along."""
    x = take(body, "line", "image")
    size, hidden = x.shape[-1], body.genes.pick(6, 4)
    first, second = body.attribute("mix", f"nn.Linear({size}, {hidden})"), body.attribute("mix", f"nn.Linear({hidden}, {size})")
    body.like(x, f"{x} + {second}(F.gelu({first}({x})))")


@linears.operator(weight=1)
def gated_unit(body: Body) -> None:
    """SwiGLU: two linear layers side by side, multiplied."""
    x = take(body, "sequence", "vector", "grid")
    hidden, out = body.width(), body.width()
    gate, up = (
        body.attribute("gate", f"nn.Linear({x.c}, {hidden}, bias=False)"),
        body.attribute("up", f"nn.Linear({x.c}, {hidden}, bias=False)"),
    )
    down = body.attribute("down", f"nn.Linear({hidden}, {out}, bias=False)")
    act = body.genes.pick("torch.sigmoid", "torch.tanh", "F.hardsigmoid")
    body.like(x, f"{down}({act}({gate}({x})) * {up}({x}))", channels=out)
