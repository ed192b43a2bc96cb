"""Linear layers that bring a tensor of any kind to a wanted number of channels."""

from __future__ import annotations

from tests.networks.body import Body, Kind, Value

DIMENSIONS: dict[Kind, int] = {"line": 1, "image": 2, "volume": 3}


def project(body: Body, x: Value, channels: int) -> Value:
    """A 1x1 convolution or a Linear, by kind; `x` stays as it is and counts as used."""
    x.used = True
    bias = "" if body.genes.pick(True, True, False) else ", bias=False"
    if x.kind in DIMENSIONS:
        layer = body.attribute("proj", f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {channels}, 1{bias})")
    else:
        layer = body.attribute("proj", f"nn.Linear({x.c}, {channels}{bias})")
    return body.like(x, f"{layer}({x})", channels=channels)


def same_channels(body: Body, x: Value, channels: int) -> Value:
    return x if x.c == channels else project(body, x, channels)


def bounded(body: Body, x: Value, y: Value) -> tuple[str, str, int]:
    """Two factors of a product and its degree: where the product could grow without end, one of them is saturated first."""
    if x.degree + y.degree <= 3:
        return str(x), str(y), x.degree + y.degree
    return str(x), f"torch.tanh({y})", x.degree
