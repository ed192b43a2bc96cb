"""Raw parameters and buffers, weights computed in forward, parametrizations."""

from __future__ import annotations

from tests.networks.blocks.weights import ScaledConv, StandardizedConv
from tests.networks.body import Body, text
from tests.networks.family import Family
from tests.networks.fitting import divisible, take, take_map
from tests.networks.layers import DIMENSIONS

parameters = Family("parameters")
parametrizations = Family("parametrizations")


@parameters.operator(weight=3)
def scale_and_shift(body: Body) -> None:
    x = take(body)
    scale = body.parameter(*x.per_channel(), hint="scale")
    match body.genes.pick("scale", "both", "residual", "addcmul"):
        case "scale":
            body.like(x, f"{x} * {scale}")
        case "both":
            body.like(x, f"{x} * {scale} + {body.parameter(*x.per_channel(), hint='bias')}")
        case "residual":
            body.like(x, f"{x} + {scale} * torch.tanh({x})")
        case _:
            body.like(x, f"torch.addcmul({body.parameter(*x.per_channel(), hint='bias')}, {x}, {scale})")


@parameters.operator(weight=2)
def constant_buffer(body: Body) -> None:
    """Channel means and deviations that are no parameters."""
    x = take(body)
    values = f"torch.linspace(-1, 1, {x.c})"
    buffer = body.buffer(f"{values}.view({text(x.per_channel())})")
    body.like(x, body.genes.pick(f"{x} - {buffer}", f"{x} * ({buffer} + 1.5)", f"({x} - {buffer}) / 1.5"))


@parameters.operator(weight=2)
def position(body: Body) -> None:
    """A learned embedding of the places, as a parameter or looked up by arange."""
    x = take(body, "sequence", "image")
    if x.kind == "sequence" and body.genes.flag():
        table = body.attribute("positions", f"nn.Embedding({x.shape[0] + 2}, {x.c})")
        body.like(x, f"{x} + {table}(torch.arange({x}.shape[1], device={x}.device))")
    else:
        body.like(x, f"{x} + {body.parameter(1, *x.shape, hint='positions')}")


@parameters.operator(weight=2)
def class_token(body: Body) -> None:
    """A learned token in front of the sequence."""
    x = take(body, "sequence")
    token = body.parameter(1, 1, x.c, hint="token")
    wide = body.genes.pick(
        f"{token}.expand({x}.shape[0], -1, -1)", f"{token}.repeat({x}.shape[0], 1, 1)", f"{token}.expand({x}.size(0), 1, {x.c})"
    )
    body.let(f"torch.cat([{wide}, {x}], dim=1)", "sequence", (x.shape[0] + 1, x.c), x.degree)


@parameters.operator(weight=2)
def weight_in_forward(body: Body) -> None:
    """A weight that is computed: standardised, or scaled for each output."""
    x = take(body, "image")
    channels = body.width()
    body.like(x, f"{body.block(body.genes.pick(StandardizedConv, ScaledConv), x.c, channels)}({x})", channels=channels)


@parameters.operator(weight=1)
def weight_reshaped(body: Body) -> None:
    """A 1x1 convolution's weight used as a matrix, a Linear's as a convolution."""
    x = take(body, "image", "sequence")
    channels = body.width()
    if x.kind == "image":
        weight = body.parameter(channels, x.c)
        body.like(x, f"F.conv2d({x}, {weight}{body.genes.pick('[:, :, None, None]', '.unsqueeze(-1).unsqueeze(-1)')})", channels=channels)
    else:
        layer = body.attribute("point", f"nn.Conv1d({x.c}, {channels}, 1)")
        body.like(x, f"F.linear({x}, {layer}.weight.squeeze(-1), {layer}.bias)", channels=channels)


@parametrizations.operator(weight=2)
def weight_norm(body: Body) -> None:
    x = take(body, "image", "sequence", "line")
    channels = body.width()
    made = f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {channels}, 3, padding=1)" if x.kind in DIMENSIONS else f"nn.Linear({x.c}, {channels})"
    dim = body.genes.pick("", "", ", dim=1", ", dim=None")
    body.like(x, f"{body.attribute('normed', f'nn.utils.parametrizations.weight_norm({made}{dim})')}({x})", channels=channels)


@parametrizations.operator(weight=1)
def spectral_norm(body: Body) -> None:
    x = take_map(body)
    channels = body.width()
    made = f"nn.utils.parametrizations.spectral_norm(nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {channels}, 1))"
    body.like(x, f"{body.attribute('normed', made)}({x})", channels=channels)


@parametrizations.operator(weight=1)
def parametrized_scale(body: Body) -> None:
    """A parametrization of one's own: softplus of the raw weight."""
    x = divisible(body, take(body, "sequence", "vector"), 1)
    layer = body.attribute("fc", f"nn.Linear({x.c}, {body.width()})")
    body.setup.append(
        f'nn.utils.parametrize.register_parametrization({layer}, "weight", nn.{body.genes.pick("Tanh", "Softplus", "Identity")}())'
    )
    channels = int(body.setup[-2].rsplit(", ", 1)[1].rstrip(")"))
    body.like(x, f"{layer}({x})", channels=channels)
