"""Normalisation layers; all keep the shape."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import divisible, take, take_map
from tests.networks.layers import DIMENSIONS, project

normalisations = Family("normalisations")


@normalisations.operator(weight=5)
def batch_norm(body: Body) -> None:
    x = take(body, "image", "image", "line", "vector", "volume", least=2)
    affine = body.genes.pick("", "", ", affine=False", ", track_running_stats=False", ", momentum=0.3, eps=0.001")
    layer = body.attribute("norm", f"nn.BatchNorm{DIMENSIONS.get(x.kind, 1)}d({x.c}{affine})")
    body.like(x, f"{layer}({x})")


@normalisations.operator(weight=3)
def layer_norm(body: Body) -> None:
    x = divisible(body, take(body, "sequence", "grid", "vector"), 1, least=3)
    shape = body.genes.pick(f"{x.c}", f"({x.c},)", f"{x.c}, elementwise_affine=False", f"{x.c}, bias=False")
    layer = body.attribute("norm", f"nn.LayerNorm({shape})")
    body.like(x, f"{layer}({x})", degree=1)


@normalisations.operator(weight=2)
def layer_norm_functional(body: Body) -> None:
    x = divisible(body, take(body, "sequence", "grid", "vector"), 1, least=3)
    weight, bias = body.parameter(x.c, hint="scale"), body.parameter(x.c, hint="bias")
    shape = body.genes.pick(f"({x.c},)", f"{weight}.shape", f"({x}.shape[-1],)")
    body.like(x, f"F.layer_norm({x}, {shape}, {weight}, {bias}, 1e-5)", degree=1)


@normalisations.operator(weight=1)
def layer_norm_map(body: Body) -> None:
    """Over channels and places at once."""
    x = take(body, "image", "line", "sequence", least=2)
    layer = body.attribute("norm", f"nn.LayerNorm({list(x.shape)})")
    body.like(x, f"{layer}({x})", degree=1)


@normalisations.operator(weight=1)
def layer_norm_channels_first(body: Body) -> None:
    """A LayerNorm over the channels of an image, between two permutes, as ConvNeXt does."""
    x = divisible(body, take(body, "image"), 1, least=3)
    layer = body.attribute("norm", f"nn.LayerNorm({x.c})")
    body.like(x, f"{layer}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", degree=1)


@normalisations.operator(weight=3)
def group_norm(body: Body) -> None:
    groups = body.genes.pick(2, 1, 4, 3)
    x = divisible(body, take_map(body, least=2), groups)
    if body.genes.pick(False, False, True):
        body.like(x, f"F.group_norm({x}, {groups}, {body.parameter(x.c, hint='scale')}, {body.parameter(x.c, hint='bias')})", degree=1)
    else:
        body.like(x, f"{body.attribute('norm', f'nn.GroupNorm({groups}, {x.c})')}({x})", degree=1)


@normalisations.operator(weight=2)
def group_norm_of_each(body: Body) -> None:
    """As many groups as channels."""
    x = take_map(body, least=2)
    body.like(x, f"{body.attribute('norm', f'nn.GroupNorm({x.c}, {x.c})')}({x})", degree=1)


@normalisations.operator(weight=2)
def instance_norm(body: Body) -> None:
    x = take_map(body, least=2)
    options = body.genes.pick("", ", affine=True", ", affine=True, track_running_stats=True")
    body.like(x, f"{body.attribute('norm', f'nn.InstanceNorm{DIMENSIONS[x.kind]}d({x.c}{options})')}({x})", degree=1)


@normalisations.operator(weight=2)
def rms_norm(body: Body) -> None:
    x = take(body, "sequence", "grid", "vector")
    if body.genes.flag():
        body.like(x, f"F.rms_norm({x}, ({x}.shape[-1],), {body.parameter(x.c, hint='scale')}, eps=1e-5)", degree=1)
    else:
        body.like(x, f"{body.attribute('norm', f'nn.RMSNorm({x.c}, eps=1e-5)')}({x})", degree=1)


@normalisations.operator(weight=2)
def norm_by_hand(body: Body) -> None:
    """The mean square, or mean and variance, written out; over the channels, wherever they stand."""
    x = take(body, "sequence", "grid", "vector", "image", least=3)
    dim = len(x.shape) if x.kind != "image" else 1
    at = body.genes.pick(f"{dim}, keepdim=True", f"dim={dim}, keepdim=True", f"({dim},), keepdim=True")
    scale = body.parameter(*(x.per_channel() if x.kind == "image" else (x.c,)), hint="scale")
    match body.genes.pick("mean square", "root", "var_mean", "std", "response"):
        case "mean square":
            body.like(x, f"{x} * torch.rsqrt({x}.pow(2).mean({at}) + 1e-3) * {scale}", degree=1)
        case "root":
            body.like(x, f"{scale} * ({x} / torch.sqrt(({x} * {x}).mean({at}) + 1e-3))", degree=1)
        case "var_mean":
            variance, mean = body.fresh("variance"), body.fresh("mean")
            body.do(f"{variance}, {mean} = torch.var_mean({x}, {at}, unbiased=False)")
            body.like(x, f"({x} - {mean}) * ({variance} + 1e-3).pow(-0.5) * {scale}", degree=1)
        case "std":
            body.like(x, f"({x} - {x}.mean({at})) / ({x}.std({at}, correction=0) + 0.1) * {scale}", degree=1)
        case _:
            body.like(x, f"{x} + {scale} * {x} * ({x}.square() / ({x}.square().mean({at}) + 1e-2))", degree=1)


@normalisations.operator(weight=1)
def batch_norm_by_hand(body: Body) -> None:
    """Scale and shift from buffers and parameters, as a frozen batch norm does."""
    x = take_map(body)
    shape = x.per_channel()
    mean, var = body.buffer(f"torch.linspace(-0.5, 0.5, {x.c})"), body.buffer(f"torch.linspace(0.5, 1.5, {x.c})")
    weight, bias = body.parameter(x.c, hint="scale"), body.parameter(x.c, hint="bias")
    scale = body.fresh("scale")
    body.do(f"{scale} = {weight} * ({var} + 1e-5).rsqrt()")
    at = body.genes.pick(
        f".view({', '.join(map(str, (1, *shape)))})", f".reshape(1, -1{', 1' * (len(shape) - 1)})", f"[:{', None' * (len(shape) - 1)}]"
    )
    body.like(x, f"{x} * {scale}{at} + ({bias} - {mean} * {scale}){at}")


@normalisations.operator(weight=2)
def group_norms_that_straddle(body: Body) -> None:
    """Norms of groups over two maps, and over both, where groups begin elsewhere: the streams of a U-Net."""
    groups = body.genes.pick(2, 4, 3)
    x = take_map(body, least=2)
    parts = [project(body, x, groups * body.genes.pick(2, 4, 1)) for _ in range(2)]
    normed = [body.like(part, f"{body.attribute('norm', f'nn.GroupNorm({groups}, {part.c})')}({part})", degree=1) for part in parts]
    together = sum(part.c for part in parts)
    norm = body.attribute("norm", f"nn.GroupNorm({groups}, {together})")
    joined = parts if body.genes.flag() else normed
    for each in joined:
        each.used = True
    body.like(parts[0], f"{norm}(torch.cat([{joined[0]}, {joined[1]}], 1))", degree=1, channels=together)
