"""Sums of products written as einsum, bmm and matmul."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import divisible, take
from tests.networks.layers import bounded, project
from tests.networks.operators.joins import beside

einsum = Family("einsum")


@einsum.operator(weight=3)
def einsum_parameter(body: Body) -> None:
    """Channels against a raw matrix."""
    x = take(body)
    channels = body.width()
    letters = {"image": "chw", "line": "cl", "volume": "cdhw", "sequence": "nc", "grid": "hwc", "vector": "c"}[x.kind]
    out = letters.replace("c", "o")
    turned = body.genes.flag()
    weight = body.parameter(channels, x.c) if turned else body.parameter(x.c, channels)
    second = "oc" if turned else "co"
    equation = body.genes.pick(f"b{letters},{second}->b{out}", f"...{letters[letters.index('c') :]},{second}->...{out[out.index('o') :]}")
    body.like(x, f'torch.einsum("{equation}", {x}, {weight})', channels=channels)


@einsum.operator(weight=2)
def einsum_heads(body: Body) -> None:
    """bhqd,bhkd->bhqk and back, with one matrix for each head."""
    heads = body.genes.pick(2, 3)
    x = divisible(body, take(body, "sequence"), heads)
    d = x.c // heads
    y = body.fresh("heads")
    body.do(f'{y} = torch.einsum("bnc,chd->bhnd", {x}, {body.parameter(x.c, heads, d)})')
    body.do(f'{y}w = torch.einsum("bhqd,bhkd->bhqk", {y}, {y}).mul({d}**-0.5).softmax(-1)')
    body.like(x, f'torch.einsum("bhqk,bhkd,hdc->bqc", {y}w, {y}, {body.parameter(heads, d, x.c)})')


@einsum.operator(weight=2)
def einsum_gate(body: Body) -> None:
    """Channels of an image against a vector of the same channels."""
    x = take(body, "image")
    v = project(body, take(body, "vector"), x.c)
    v.used = True
    body.like(x, f'torch.einsum("bchw,bc->bchw", {x}, torch.sigmoid({v}))')


@einsum.operator(weight=1)
def einsum_outer(body: Body) -> None:
    """Every channel with every other, as bilinear pooling does."""
    x = take(body, "sequence", "image")
    a = project(body, x, 3)
    b = project(body, x, body.genes.pick(2, 4))
    a.used = b.used = True
    equation = "bnc,bnd->bcd" if x.kind == "sequence" else "bchw,bdhw->bcd"
    places = 1
    for size in x.spatial:
        places *= size
    left, right, degree = bounded(body, a, b)
    body.let(f'torch.einsum("{equation}", {left}, {right}).flatten(1) / {places}', "vector", (3 * b.c,), degree)


@einsum.operator(weight=1)
def outer_product(body: Body) -> None:
    """(b, c, 1) times (b, 1, d), flattened: every channel meets every other by broadcasting."""
    x = take(body, "vector")
    y = project(body, x, 3)
    y.used = True
    left, right, degree = bounded(body, x, y)
    body.let(f"({left}.unsqueeze(2) * {right}[:, None]).flatten(1)", "vector", (x.c * 3,), degree)


@einsum.operator(weight=1)
def einsum_gram(body: Body) -> None:
    """The channels are summed away: scores of places against places."""
    x = take(body, "sequence")
    y = body.let(f'torch.einsum("bic,bjc->bij", torch.tanh({x}), {x}) / {x.c}', "sequence", (x.shape[0], x.shape[0]), x.degree)
    if x.shape[0] > 24:
        y.used = True
        project(body, y, 8)


@einsum.operator(weight=2)
def bmm(body: Body) -> None:
    """One sequence against another, channel by channel."""
    x = take(body, "sequence")
    y = beside(body, x)
    scores = body.genes.pick(f"torch.bmm({x}.transpose(1, 2), {y})", f"{x}.mT @ {y}", f"torch.matmul({x}.transpose(-1, -2), {y})")
    name = body.fresh("table")
    body.do(f"{name} = torch.tanh({scores} / {x.shape[0]})")
    body.like(y, f"torch.bmm(torch.tanh({x}), {name})", degree=1)


@einsum.operator(weight=1)
def depth_by_einsum(body: Body) -> None:
    """A scale for each channel, written as einsum."""
    x = take(body, "sequence", "image")
    weight = body.parameter(x.c, hint="scale")
    body.like(x, f'torch.einsum("{"bnc,c->bnc" if x.kind == "sequence" else "bchw,c->bchw"}", {x}, {weight})')
