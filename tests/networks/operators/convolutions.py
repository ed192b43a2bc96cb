"""Convolutions in one to three dimensions."""

from __future__ import annotations

from tests.networks.body import Body, Value
from tests.networks.family import Family
from tests.networks.fitting import divisible, take_map
from tests.networks.layers import DIMENSIONS

convolutions = Family("convolutions")

# kernel, stride, padding, dilation
_SHAPES = ((3, 1, 1, 1), (1, 1, 0, 1), (3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 0, 1), (3, 1, 2, 2), (5, 1, 2, 1), (4, 2, 1, 1))


def _places(x: Value, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, ...]:
    return tuple((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for size in x.spatial)


def _geometry(body: Body, x: Value) -> tuple[str, tuple[int, ...]]:
    """Kernel, stride, padding and dilation as arguments, and the spatial sizes that come out."""
    kernel, stride, padding, dilation = body.genes.choose(_SHAPES)
    if min(_places(x, kernel, stride, padding, dilation)) < 1:
        kernel, stride, padding, dilation = 1, 1, 0, 1
    texts = [str(kernel)]
    texts += [
        f"{name}={value}"
        for name, value, usual in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1))
        if value != usual
    ]
    if padding and padding < min(x.spatial):
        texts.append(body.genes.pick("", "", "", 'padding_mode="reflect"', 'padding_mode="circular"', 'padding_mode="replicate"'))
    if not body.genes.pick(True, True, False):
        texts.append("bias=False")
    return ", ".join(filter(None, texts)), _places(x, kernel, stride, padding, dilation)


def _add(body: Body, x: Value, channels: int, arguments: str, spatial: tuple[int, ...]) -> Value:
    layer = body.attribute("conv", f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {channels}, {arguments})")
    body.layers.append((layer, x.kind, x.c, channels))
    return body.let(f"{layer}({x})", x.kind, x.sized(channels, spatial), x.degree)


@convolutions.operator(weight=6)
def conv(body: Body) -> None:
    x = take_map(body)
    _add(body, x, body.width(), *_geometry(body, x))


@convolutions.operator(weight=5)
def conv_norm_relu(body: Body) -> None:
    """The most common three."""
    x = take_map(body, least=2)
    n, channels = DIMENSIONS[x.kind], body.width()
    layer = body.attribute("conv", f"nn.Conv{n}d({x.c}, {channels}, 3, padding=1, bias=False)")
    norm = body.attribute("norm", f"nn.BatchNorm{n}d({channels})")
    act = body.attribute("act", body.genes.pick("nn.ReLU(inplace=True)", "nn.ReLU()", "nn.SiLU(inplace=True)"))
    body.like(x, f"{act}({norm}({layer}({x})))", channels=channels)


@convolutions.operator(weight=3)
def conv_grouped(body: Body) -> None:
    groups = body.genes.pick(2, 4, 3)
    x = divisible(body, take_map(body), groups)
    arguments, spatial = _geometry(body, x)
    _add(body, x, groups * body.genes.pick(2, 3, 1, 4), f"{arguments}, groups={groups}", spatial)


@convolutions.operator(weight=3)
def conv_depthwise(body: Body) -> None:
    x = take_map(body)
    arguments, spatial = _geometry(body, x)
    _add(body, x, x.c, f"{arguments}, groups={x.c}", spatial)


@convolutions.operator(weight=2)
def conv_multiplier(body: Body) -> None:
    """Depthwise, with several outputs for each input."""
    x = take_map(body)
    arguments, spatial = _geometry(body, x)
    _add(body, x, x.c * body.genes.pick(2, 3), f"{arguments}, groups={x.c}", spatial)


@convolutions.operator(weight=3)
def conv_transposed(body: Body) -> None:
    groups = body.genes.pick(1, 1, 2, 3, 0)  # 0 is depthwise, with a multiplier
    x = divisible(body, take_map(body), groups or 1, least=1)
    groups = groups or x.c
    channels = groups * body.genes.pick(*((2, 1) if groups == x.c else (4, 3, 2, 5)))
    kernel, stride, padding, extra = body.genes.pick((2, 2, 0, 0), (3, 1, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0))
    spatial = tuple((size - 1) * stride - 2 * padding + kernel + extra for size in x.spatial)
    arguments = f"{kernel}, stride={stride}, padding={padding}, output_padding={extra}, groups={groups}"
    layer = body.attribute("up", f"nn.ConvTranspose{DIMENSIONS[x.kind]}d({x.c}, {channels}, {arguments})")
    body.let(f"{layer}({x})", x.kind, x.sized(channels, spatial), x.degree)


@convolutions.operator(weight=2)
def conv_functional(body: Body) -> None:
    """`F.conv` with raw parameters: the channels stand nowhere but in their shapes."""
    groups = body.genes.pick(1, 1, 2)
    x = divisible(body, take_map(body), groups, least=1)
    n, channels = DIMENSIONS[x.kind], groups * body.genes.pick(4, 3, 5)
    weight = body.parameter(channels, x.c // groups, *(3,) * n)
    bias = body.parameter(channels, hint="bias") if body.genes.flag() else "None"
    arguments = body.genes.pick(f"{bias}, padding=1, groups={groups}", f"bias={bias}, stride=1, padding={(1,) * n}, groups={groups}")
    body.like(x, f"F.conv{n}d({x}, {weight}, {arguments})", channels=channels)


@convolutions.operator(weight=2)
def conv_same(body: Body) -> None:
    """`padding="same"` and kernels that are not square."""
    x = take_map(body)
    kernel = {"line": "(5,)", "image": body.genes.pick("(3, 1)", "(1, 5)", "(5, 3)"), "volume": "(1, 3, 3)"}[x.kind]
    _add(body, x, body.width(), f'{kernel}, padding="same"', x.spatial)


@convolutions.operator(weight=2)
def conv_separable(body: Body) -> None:
    """Depthwise, then pointwise, as MobileNet does."""
    x = take_map(body)
    n, channels = DIMENSIONS[x.kind], body.width()
    depth = body.attribute("depth", f"nn.Conv{n}d({x.c}, {x.c}, 3, padding=1, groups={x.c}, bias=False)")
    point = body.attribute("point", f"nn.Conv{n}d({x.c}, {channels}, 1)")
    act = body.genes.pick("F.relu6", "F.hardswish", "F.relu")
    body.like(x, f"{point}({act}({depth}({x})))", channels=channels)
