"""What works along the channels, so that none of them may go: softmax, statistics, sorting, rolling, convolutions across."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import divisible, take

mixing = Family("mixing")


@mixing.operator(weight=2)
def softmax_over_channels(body: Body) -> None:
    x = divisible(body, take(body), 1)
    body.like(
        x,
        body.genes.pick(f"{x}.softmax({x.axis})", f"F.log_softmax({x}, dim={x.axis})", f"F.normalize({x}, dim={x.axis}, eps=0.1)"),
        degree=1,
    )


@mixing.operator(weight=2)
def statistics_over_channels(body: Body) -> None:
    """Mean, maximum, variance or norm over the channels, as a gate or taken away."""
    x = divisible(body, take(body), 1, least=3)
    over = f"{x.axis}, keepdim=True"
    gate = body.genes.pick(
        f"{x}.mean({over})",
        f"{x}.amax({over})",
        f"{x}.max({over}).values",
        f"{x}.var({over})",
        f"({x}.pow(2).sum({over}) + 1e-3).sqrt()",
        f"torch.logsumexp({x}, {over})",
        f"({x}.abs() + 0.1).norm(dim={over})",
        f"{x}.sum({over})",
        f"torch.tanh({x}).prod({over})",
    )
    body.like(x, body.genes.pick(f"{x} * torch.sigmoid({gate})", f"{x} - torch.tanh({gate})"))


@mixing.operator(weight=1)
def order_of_channels(body: Body) -> None:
    """Sorting, rolling, flipping, accumulating."""
    x = divisible(body, take(body), 1, least=3)
    a = x.axis
    expression = body.genes.pick(
        f"{x}.sort({a}).values",
        f"{x}.cumsum({a}) / {x.c}",
        f"{x}.roll(1, {a})",
        f"{x}.flip({a})",
        f"{x}.flip([{a}])",
        f"{x}.topk({x.c}, {a}).values",
    )
    body.like(x, body.genes.pick(expression, f"{x} + {expression}"))


@mixing.operator(weight=1)
def convolution_across_channels(body: Body) -> None:
    """ECA: a short convolution along the channels."""
    x = divisible(body, take(body, "image"), 1, least=3)
    layer = body.attribute("eca", "nn.Conv1d(1, 1, 3, padding=1, bias=False)")
    if body.genes.flag():
        gate = f"{layer}({x}.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)"
    else:
        gate = f"{layer}(F.adaptive_avg_pool2d({x}, 1).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)"
    body.like(x, f"{x} * torch.sigmoid({gate})")


@mixing.operator(weight=1)
def local_response_norm(body: Body) -> None:
    x = divisible(body, take(body, "image", least=2), 1, least=3)
    body.like(x, body.either(x, f"F.local_response_norm({x}, 3)", "norm", "nn.LocalResponseNorm(3, alpha=0.5)"))


@mixing.operator(weight=1)
def spatial_attention(body: Body) -> None:
    """CBAM: mean and maximum over the channels, side by side through a convolution."""
    x = divisible(body, take(body, "image"), 1, least=3)
    layer = body.attribute("conv", "nn.Conv2d(2, 1, 3, padding=1, bias=False)")
    both = f"torch.cat([{x}.mean(1, keepdim=True), {x}.amax(1, keepdim=True)], dim=1)"
    body.like(x, f"{x} * torch.sigmoid({layer}({both}))")


@mixing.operator(weight=1)
def channels_as_places(body: Body) -> None:
    """Channels and places swap their roles: what convolves along them, or is convolved across them, is protected."""
    x = divisible(body, take(body, "sequence"), 1, least=3)
    layer = body.attribute("conv", f"nn.Conv1d({x.shape[0]}, {x.shape[0]}, 3, padding=1)")
    body.like(x, f"{x} + {layer}({x})", degree=x.degree)
