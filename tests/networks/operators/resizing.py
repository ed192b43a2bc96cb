"""Pooling, interpolation and padding: places change, channels ride along."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take, take_map
from tests.networks.layers import DIMENSIONS

pooling = Family("pooling")
resizing = Family("resizing")


@pooling.operator(weight=3)
def pool(body: Body) -> None:
    x = take_map(body, least=3)
    n = DIMENSIONS[x.kind]
    which = body.genes.pick("Max", "Avg")
    kernel, stride, padding, ceil = body.genes.pick((2, 2, 0, False), (3, 2, 1, False), (3, 1, 1, False), (3, 2, 0, True), (2, 1, 0, False))
    rounded = [-(-(size + 2 * padding - kernel) // stride) if ceil else (size + 2 * padding - kernel) // stride for size in x.spatial]
    spatial = tuple(size + 1 for size in rounded)
    arguments = f"{kernel}, stride={stride}, padding={padding}, ceil_mode={ceil}"
    if which == "Avg":
        arguments += body.genes.pick("", ", count_include_pad=False")
    expression = body.either(x, f"F.{which.lower()}_pool{n}d({x}, {arguments})", "pool", f"nn.{which}Pool{n}d({arguments})")
    body.let(expression, x.kind, x.sized(spatial=spatial), x.degree)


@pooling.operator(weight=2)
def pool_adaptive(body: Body) -> None:
    x = take_map(body)
    n = DIMENSIONS[x.kind]
    size = body.genes.pick(2, 3, 1)
    which = body.genes.pick("Avg", "Max")
    expression = body.either(x, f"F.adaptive_{which.lower()}_pool{n}d({x}, {size})", "pool", f"nn.Adaptive{which}Pool{n}d({size})")
    body.let(expression, x.kind, x.sized(spatial=(size,) * n), x.degree)


@pooling.operator(weight=1)
def pool_pyramid(body: Body) -> None:
    """Three maximum poolings after one another, side by side with what came in, as SPPF does."""
    x = take(body, "image")
    layer = body.attribute("pool", "nn.MaxPool2d(3, stride=1, padding=1)")
    body.do(f"{x}a = {layer}({x})")
    body.do(f"{x}b = {layer}({x}a)")
    body.like(x, f"torch.cat([{x}, {x}a, {x}b], {body.genes.pick('1', 'dim=1', 'dim=-3')})", channels=3 * x.c)


@pooling.operator(weight=1)
def unpool(body: Body) -> None:
    """Values go back to where the largest of their channel came from, as in encoders and decoders. No two places are alike: which of two
    equal values is the larger one, rounding would say."""
    x = take(body, "image", least=2)
    layer = body.attribute("conv", f"nn.Conv2d({x.c}, {x.c}, 1)")
    ramp = body.buffer(f"torch.randn{x.spatial}")
    body.do(f"{x}m, {x}i = F.max_pool2d({x} + {ramp}, 2, return_indices=True)")
    body.like(x, f"F.max_unpool2d({layer}({x}m), {x}i, 2, output_size={x}.shape[2:])")


@resizing.operator(weight=1)
def warp(body: Body) -> None:
    """Samples the places that a layer names."""
    x = take(body, "image")
    layer = body.attribute("conv", f"nn.Conv2d({x.c}, 2, 1)")
    body.like(x, f"F.grid_sample({x}, {layer}({x}).tanh().permute(0, 2, 3, 1), align_corners=True)")


@resizing.operator(weight=2)
def interpolate(body: Body) -> None:
    x = take_map(body)
    mode = body.genes.pick("nearest", {"line": "linear", "image": "bilinear", "volume": "trilinear"}[x.kind])
    options = f'mode="{mode}"' + ("" if mode == "nearest" else body.genes.pick(", align_corners=False", ", align_corners=True"))
    size = tuple(body.genes.pick(2 * s, s + 1, max(s - 1, 1)) for s in x.spatial)
    doubled = tuple(2 * s for s in x.spatial)
    expression, spatial = body.genes.pick(
        (body.either(x, f"F.interpolate({x}, scale_factor=2, {options})", "up", f"nn.Upsample(scale_factor=2, {options})"), doubled),
        (f"F.interpolate({x}, size={size}, {options})", size),
        (f"F.interpolate({x}, size=[2 * s for s in {x}.shape[2:]], {options})", doubled),
    )
    body.let(expression, x.kind, x.sized(spatial=spatial), x.degree)


@resizing.operator(weight=1)
def pad(body: Body) -> None:
    """Zeros or copies around the places."""
    x = take(body, "image", "line", least=2)
    amounts, spatial = ("1, 0", (x.spatial[0] + 1,)) if x.kind == "line" else ("1, 1, 1, 0", (x.spatial[0] + 1, x.spatial[1] + 2))
    expression = body.genes.pick(
        f"F.pad({x}, ({amounts}))", f'F.pad({x}, ({amounts}), mode="replicate")', f"F.pad({x}, ({amounts}), value=0.5)"
    )
    body.let(expression, x.kind, x.sized(spatial=spatial), x.degree)


@resizing.operator(weight=2)
def pad_channels(body: Body) -> None:
    """The parameter-free shortcut of CIFAR ResNets: every other place, and zero channels around."""
    x = take(body, "image")
    before, after = body.genes.pick((2, 2), (0, 3), (1, 2))
    h, w = ((s + 1) // 2 for s in x.spatial)
    expression = f"F.pad({x}[:, :, ::2, ::2], (0, 0, 0, 0, {before}, {after}))"
    y = body.let(expression, "image", (x.c + before + after, h, w), x.degree)
    if body.genes.pick(True, False):
        y.used = True
        layer = body.attribute("conv", f"nn.Conv2d({x.c}, {y.c}, 3, stride=2, padding=1)")
        body.like(y, f"{layer}({x}) + {y}")
