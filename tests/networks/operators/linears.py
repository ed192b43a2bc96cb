"""Linear layers on the last axis, through modules, functions and products with raw parameters."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take

linears = Family("linears")


@linears.operator(weight=6)
def linear(body: Body) -> None:
    x = take(body, "sequence", "vector", "grid")
    channels = body.width()
    layer = body.attribute("fc", f"nn.Linear({x.c}, {channels}{body.genes.pick('', ', bias=False')})")
    body.like(x, f"{layer}({x})", channels=channels)


@linears.operator()
def linear_on_channels_last(body: Body) -> None:
    """An image goes to NHWC for a Linear, and back."""
    x = take(body, "image")
    channels = body.width()
    layer = body.attribute("fc", f"nn.Linear({x.c}, {channels})")
    body.like(x, f"{layer}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", channels=channels)


@linears.operator()
def functional_linear(body: Body) -> None:
    x = take(body, "sequence", "vector", "grid")
    channels = body.width()
    match body.genes.pick("linear", "matmul", "transposed"):
        case "linear":
            body.like(x, f"F.linear({x}, {body.parameter(channels, x.c)}, {body.parameter(channels, hint='bias')})", channels=channels)
        case "matmul":
            body.like(x, f"{x} @ {body.parameter(x.c, channels)}", channels=channels)
        case _:
            body.like(x, f"torch.matmul({x}, {body.parameter(channels, x.c)}.t()) + {body.parameter(channels, hint='bias')}", channels=channels)


@linears.operator(weight=3)
def mlp(body: Body) -> None:
    x = take(body, "sequence", "vector", "grid")
    wide, act = body.width() + 2, body.genes.pick("nn.GELU()", "nn.ReLU(inplace=True)", "nn.SiLU()")
    layer = body.attribute("mlp", f"nn.Sequential(nn.Linear({x.c}, {wide}), {act}, nn.Dropout(0.1), nn.Linear({wide}, {x.c}))")
    body.like(x, f"{x} + {layer}({x})")


@linears.operator()
def gated_mlp(body: Body) -> None:
    """SwiGLU: one Linear for both halves, or two."""
    x = take(body, "sequence", "vector")
    wide = body.genes.pick(6, 4, 8)
    out = body.attribute("down", f"nn.Linear({wide}, {x.c})")
    if body.genes.flag():
        both = body.attribute("up", f"nn.Linear({x.c}, {2 * wide})")
        a, b = body.fresh("a"), body.fresh("b")
        body.do(f"{a}, {b} = {both}({x}).chunk(2, dim=-1)")
        body.like(x, f"{out}(F.silu({a}) * torch.tanh({b}))")
    else:
        one, two = (body.attribute(name, f"nn.Linear({x.c}, {wide})") for name in ("gate", "up"))
        body.like(x, f"{out}(torch.sigmoid({one}({x})) * {two}({x}))")


@linears.operator(weight=1)
def token_mixing(body: Body) -> None:
    """A Linear along the places: MLP-Mixer's."""
    x = take(body, "sequence")
    n = x.shape[0]
    layer = body.attribute("mix", f"nn.Linear({n}, {n})")
    body.like(x, f"{x} + {layer}({x}.transpose(1, 2)).transpose(1, 2)")
