"""More inputs, integer inputs, more outputs."""

from __future__ import annotations

from tests.networks.body import Body, Kind
from tests.networks.family import Family
from tests.networks.fitting import take

interfaces = Family("interfaces")

SHAPES: dict[Kind, tuple[tuple[int, ...], ...]] = {
    "image": ((3, 8, 8), (3, 6, 6), (1, 7, 5), (4, 9, 9), (2, 4, 6)),
    "sequence": ((6, 5), (4, 8), (9, 6)),
    "vector": ((6,), (5,), (12,)),
    "line": ((3, 8), (2, 9), (4, 6)),
    "grid": ((6, 6, 3), (4, 8, 4)),
    "volume": ((2, 4, 4, 4), (3, 3, 5, 4)),
    "tokens": ((6,), (4,)),
}


@interfaces.operator(weight=2)
def new_input(body: Body) -> None:
    kinds: tuple[Kind, ...] = ("vector", "image", "sequence")
    kind = body.genes.choose(kinds)
    body.new_input(kind, body.genes.choose(SHAPES[kind]))


@interfaces.operator(weight=3)
def embedding(body: Body) -> None:
    """Integer inputs through a table; the table may serve as the output layer, too."""
    tokens = [value for value in body.inputs if value.kind == "tokens"]
    x = body.genes.choose(tokens) if tokens else body.new_input("tokens", body.genes.choose(SHAPES["tokens"]))
    width = body.width()
    style = body.genes.pick("plain", "bag", "tied")
    if style == "bag":
        layer = body.attribute("bag", f'nn.EmbeddingBag(11, {width}, mode="{body.genes.pick("mean", "sum")}")')
        body.let(f"{layer}({x})", "vector", (width,))
        return
    layer = body.attribute("embedding", f"nn.Embedding(11, {width})")
    y = body.let(f"{layer}({x})", "sequence", (x.shape[0], width))
    if style == "tied":
        y.used = True
        head = body.attribute("head", f"nn.Linear({width}, 11, bias=False)")
        body.setup.append(f"{head}.weight = {layer}.weight")
        hidden = body.attribute("fc", f"nn.Linear({width}, {width})")
        body.outputs.append(f"{head}(torch.tanh({hidden}({y})) + {y})")


@interfaces.operator(weight=1)
def also_output(body: Body) -> None:
    """A tensor inside the network is an output as well."""
    x = take(body)
    body.outputs.append(f"{x}")
