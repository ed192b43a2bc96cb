"""Convolutions of one to three dimensions: strided, dilated, grouped, depthwise, transposed, through modules and functions."""

from __future__ import annotations

from tests.networks.blocks.convolutions import StandardizedConv2d
from tests.networks.body import Body, Value
from tests.networks.family import Family
from tests.networks.fitting import divisible, take, take_map
from tests.networks.layers import DIMENSIONS

convolutions = Family("convolutions")


def _geometry(body: Body, x: Value) -> tuple[str, tuple[int, ...]]:
    """Keywords of a convolution behind the channels, and the sizes that come out; `x` has at least three places on each axis."""
    kernel, stride, padding, dilation = body.genes.pick((3, 1, 1, 1), (1, 1, 0, 1), (3, 2, 1, 1), (3, 1, 0, 1), (2, 2, 0, 1), (3, 1, 2, 2), (2, 1, 1, 1))
    out = tuple((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for size in x.spatial)
    return f"{kernel}, stride={stride}, padding={padding}, dilation={dilation}", out


def _bias(body: Body) -> str:
    return body.genes.pick("", ", bias=False")


def _layer(body: Body, x: Value, channels: int, groups: int = 1) -> Value:
    geometry, spatial = _geometry(body, x)
    grouped = f", groups={groups}" if groups > 1 else ""
    layer = body.attribute("conv", f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {channels}, {geometry}{grouped}{_bias(body)})")
    return body.let(f"{layer}({x})", x.kind, x.sized(channels, spatial), x.degree)


@convolutions.operator(weight=8)
def convolution(body: Body) -> None:
    x = take_map(body, least=3)
    _layer(body, x, body.width())


@convolutions.operator(weight=3)
def grouped_convolution(body: Body) -> None:
    groups = body.genes.pick(2, 3, 4)
    x = divisible(body, take_map(body, least=3), groups)
    _layer(body, x, groups * body.genes.pick(2, 1, 3), groups)


@convolutions.operator(weight=4)
def depthwise_convolution(body: Body) -> None:
    """With a multiplier now and then."""
    x = take_map(body, least=3)
    _layer(body, x, x.c * body.genes.pick(1, 1, 2), x.c)


@convolutions.operator(weight=3)
def transposed_convolution(body: Body) -> None:
    groups = body.genes.pick(1, 1, 2, 0)  # 0: depthwise
    x = take_map(body, least=1)
    if groups > 1:
        x = divisible(body, x, groups)
    channels = x.c if groups == 0 else max(groups, 1) * body.genes.pick(3, 4, 2)
    kernel, stride, padding = body.genes.pick((2, 2, 0), (3, 1, 1), (3, 1, 0))
    spatial = tuple((size - 1) * stride - 2 * padding + kernel for size in x.spatial)
    layer = body.attribute(
        "up",
        f"nn.ConvTranspose{DIMENSIONS[x.kind]}d({x.c}, {channels}, {kernel}, stride={stride}, padding={padding}, groups={groups or x.c}{_bias(body)})",
    )
    body.let(f"{layer}({x})", x.kind, x.sized(channels, spatial), x.degree)


@convolutions.operator()
def functional_convolution(body: Body) -> None:
    """`F.conv2d` with a raw parameter."""
    x = take_map(body, least=3)
    n, channels = DIMENSIONS[x.kind], body.width()
    weight = body.parameter(channels, x.c, *(3,) * n)
    bias = body.parameter(channels, hint="bias") if body.genes.flag() else "None"
    body.like(x, f"F.conv{n}d({x}, {weight}, {bias}, padding=1)", channels=channels)


@convolutions.operator()
def standardized_convolution(body: Body) -> None:
    """The weight is normalised in forward."""
    x = take(body, "image", least=3)
    channels = body.width()
    body.like(x, f"{body.block(StandardizedConv2d, x.c, channels, 3)}({x})", channels=channels)


@convolutions.operator()
def weight_norm_convolution(body: Body) -> None:
    x = take(body, "image", "line")
    channels = body.width()
    layer = body.attribute("conv", f"nn.utils.parametrizations.weight_norm(nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {channels}, 3, padding=1))")
    body.like(x, f"{layer}({x})", channels=channels)


@convolutions.operator(weight=3)
def inverted_bottleneck(body: Body) -> None:
    """Expand, depthwise, project: MobileNet's block."""
    x = take(body, "image")
    wide = x.c * 2
    block = body.attribute(
        "block",
        f"nn.Sequential(nn.Conv2d({x.c}, {wide}, 1, bias=False), nn.BatchNorm2d({wide}), nn.ReLU6(), "
        f"nn.Conv2d({wide}, {wide}, 3, padding=1, groups={wide}), nn.SiLU(), nn.Conv2d({wide}, {x.c}, 1))",
    )
    body.like(x, f"{x} + {block}({x})")
