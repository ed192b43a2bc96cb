"""Modules used twice, and weights that several modules share."""

from __future__ import annotations

from tests.networks.body import Body, Value
from tests.networks.family import Family
from tests.networks.fitting import take, take_map
from tests.networks.layers import DIMENSIONS, project, same_channels
from tests.networks.operators.joins import beside

sharing = Family("sharing")


@sharing.operator(weight=3)
def used_twice(body: Body) -> None:
    """One layer, one after another, maybe with something between."""
    x = take(body)
    layer = _layer(body, x)
    body.like(x, body.genes.pick(f"{layer}({layer}({x}))", f"{layer}(F.relu({layer}({x})))", f"{layer}({x}) + torch.tanh({layer}(-{x}))"))


def _layer(body: Body, x: Value) -> str:
    if x.kind in DIMENSIONS:
        return body.attribute("conv", f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {x.c}, 3, padding=1)")
    return body.attribute("fc", f"nn.Linear({x.c}, {x.c})")


@sharing.operator(weight=3)
def shared_head(body: Body) -> None:
    """One head over several levels of a pyramid."""
    x = take_map(body, least=2)
    n, channels = DIMENSIONS[x.kind], body.genes.pick(6, 4, 8)
    head = body.attribute(
        "head", f"nn.Sequential(nn.Conv{n}d({channels}, {channels}, 3, padding=1), nn.ReLU(), nn.Conv{n}d({channels}, 3, 1))"
    )
    fine = project(body, x, channels)
    fine.used = True
    coarse = body.let(f"F.max_pool{n}d({fine}, 2)", x.kind, x.sized(channels, tuple(s // 2 for s in x.spatial)), x.degree)
    coarse.used = True
    body.like(x, f"{head}({fine})", channels=3)
    body.let(f"{head}({coarse})", x.kind, x.sized(3, coarse.spatial), x.degree)


@sharing.operator(weight=2)
def reused(body: Body) -> None:
    """A convolution from earlier in the network, on another tensor."""
    if not body.layers:
        used_twice(body)
        return
    layer, kind, inputs, outputs = body.genes.choose(body.layers)
    x = same_channels(body, take(body, kind, least=6), inputs)
    x.used = True
    n = DIMENSIONS[kind]
    body.let(f"F.adaptive_avg_pool{n}d({layer}({x}), 2)", kind, x.sized(outputs, (2,) * n), x.degree)


@sharing.operator(weight=3)
def tied_weight(body: Body) -> None:
    """Two modules hold the same tensor."""
    x = take(body, "sequence", "vector", "grid", "image")
    if x.kind == "image":
        first, second = (body.attribute("conv", f"nn.Conv2d({x.c}, {x.c}, 3, padding={p}, dilation={p})") for p in (1, 2))
    else:
        first, second = body.attribute("fc", f"nn.Linear({x.c}, {x.c})"), body.attribute("fc", f"nn.Linear({x.c}, {x.c})")
    body.setup.append(f"{second}.weight = {first}.weight")
    if body.genes.flag():
        body.setup.append(f"{second}.bias = {first}.bias")
    body.like(x, body.genes.pick(f"{second}(F.relu({first}({x})))", f"{first}({x}) + {second}(torch.tanh({x}))"))


@sharing.operator(weight=2)
def tied_transposed(body: Body) -> None:
    """An autoencoder: the decoder uses the encoder's weight, turned."""
    x = take(body, "sequence", "vector", "grid")
    layer = body.attribute("fc", f"nn.Linear({x.c}, {body.width() + 2})")
    body.like(x, f"F.linear(torch.tanh({layer}({x})), {layer}.weight{body.genes.pick('.t()', '.T', '.transpose(0, 1)')})")


@sharing.operator(weight=1)
def tied_norm(body: Body) -> None:
    """Two tensors through one normalisation, which ties their channels."""
    x = take(body, "sequence", "grid", "vector")
    y = same_channels(body, beside(body, x), x.c)
    y.used = True
    norm = body.attribute("norm", f"nn.RMSNorm({x.c}, eps=1e-5)")
    body.like(x, f"{norm}({x})", degree=1)
    body.like(y, f"{norm}({y})", degree=1)


@sharing.operator(weight=1)
def module_under_two_names(body: Body) -> None:
    """The same module registered twice: its tensors have two keys."""
    x = take(body)
    layer = _layer(body, x)
    again = body.attribute("alias", layer)
    body.like(x, f"{again}(torch.tanh({layer}({x})))")
