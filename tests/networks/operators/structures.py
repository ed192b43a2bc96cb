"""How modules are put together: nested, in lists and dictionaries, with hooks."""

from __future__ import annotations

from tests.networks.blocks.nested import Bottleneck, ConvNeXtBlock, ConvNormAct, DenseLayers, InvertedResidual
from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import divisible, take
from tests.networks.layers import DIMENSIONS

structures = Family("structures")


@structures.operator(weight=4)
def block(body: Body) -> None:
    x = take(body, "image", least=2)
    match body.genes.pick("bottleneck", "inverted", "convnext", "conv norm act", "dense"):
        case "bottleneck":
            groups = body.genes.pick(1, 2, 3)
            body.like(x, f"{body.block(Bottleneck, x.c, groups * body.genes.pick(4, 2, 3), groups)}({x})")
        case "inverted":
            body.like(x, f"{body.block(InvertedResidual, x.c, body.genes.pick(2, 3))}({x})")
        case "convnext":
            x = divisible(body, x, 1, least=3)
            body.like(x, f"{body.block(ConvNeXtBlock, x.c, 3 * x.c)}({x})")
        case "conv norm act":
            channels = body.width()
            body.like(x, f"{body.block(ConvNormAct, x.c, channels)}({x})", channels=channels)
        case _:
            growth, count = body.genes.pick(3, 2, 4), body.genes.pick(2, 3)
            body.like(x, f"{body.block(DenseLayers, x.c, growth, count)}({x})", channels=x.c + growth * count)


@structures.operator(weight=2)
def sequential(body: Body) -> None:
    """Layers in a nested Sequential."""
    x = take(body, "image", "sequence", "vector", least=2)
    hidden, out = body.width(), body.width()
    if x.kind == "image":
        inner = f"nn.Sequential(nn.BatchNorm2d({hidden}), nn.ReLU(inplace=True))"
        layers = f"nn.Conv2d({x.c}, {hidden}, 1), {inner}, nn.Conv2d({hidden}, {out}, 3, padding=1)"
    else:
        layers = f"nn.Linear({x.c}, {hidden}), nn.Sequential(nn.Identity(), nn.GELU()), nn.Linear({hidden}, {out})"
    body.like(x, f"{body.attribute('layers', f'nn.Sequential({layers})')}({x})", channels=out)


@structures.operator(weight=2)
def module_list(body: Body) -> None:
    """A loop over a ModuleList, or the entries of a ModuleDict."""
    x = take(body)
    made = f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {x.c}, 1)" if x.kind in DIMENSIONS else f"nn.Linear({x.c}, {x.c})"
    y = body.like(x, f"{x} * 0.9")
    if body.genes.flag():
        layers = body.attribute("layers", f'nn.ModuleDict({{"first": {made}, "second": {made}}})')
        body.do(f'{y} = {y} + {layers}["second"](F.relu({layers}["first"]({y})))')
    else:
        layers = body.attribute("layers", f"nn.ModuleList({made} for _ in range({body.genes.pick(2, 3)}))")
        body.do(f"for layer in {layers}:")
        body.do(f"    {y} = {y} + torch.tanh(layer({y}))")


@structures.operator(weight=2)
def hooked(body: Body) -> None:
    """A layer with a hook that changes what goes in or comes out."""
    x = take(body)
    made = f"nn.Conv{DIMENSIONS[x.kind]}d({x.c}, {x.c}, 1)" if x.kind in DIMENSIONS else f"nn.Linear({x.c}, {x.c})"
    layer = body.attribute("hooked", made)
    body.setup.append(
        body.genes.pick(
            f"{layer}.register_forward_hook(lambda module, args, out: out * 0.5)",
            f"{layer}.register_forward_pre_hook(lambda module, args: (args[0] + 0.25,))",
            f"{layer}.register_forward_hook(lambda module, args, out: out + args[0])",
            f"{layer}.register_forward_hook(lambda module, args, out: None)",
        )
    )
    body.like(x, f"{layer}({x})")


@structures.operator(weight=1)
def branch_on_size(body: Body) -> None:
    """Python control flow that asks for shapes and modes."""
    x = take(body)
    y = body.like(x, f"{x} + 0.0")
    body.do(
        body.genes.pick(
            f"if {x}.shape[{x.axis}] > 1 and {x}.dim() == {len(x.shape) + 1}:",
            f"if {x}.size({x.axis}) != 1000:",
            f"if not {x}.requires_grad or {x}.ndim > 1:",
        )
    )
    body.do(f"    {y} = {y} * {body.genes.pick('0.5', f'{x}.shape[1] ** -0.5', f'(1 / {x}.size(1))')}")
