"""From steps to the source of a module: what each operator writes, then a head that leaves nothing unread."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from tests.networks.body import Body, Kind, Value, text
from tests.networks.bridges import bridge
from tests.networks.fitting import settle
from tests.networks.genes import Genes
from tests.networks.operators.interfaces import SHAPES
from tests.networks.registry import OPERATORS

HEADER = """from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

"""


@dataclass(frozen=True)
class Step:
    """One operator and the bytes that decide how it is used."""

    operator: str
    genes: bytes


@dataclass(frozen=True)
class Recipe:
    """All decisions of a network: those of its first input, of each step, and of its head."""

    start: bytes
    steps: tuple[Step, ...]
    end: bytes


def assemble(recipe: Recipe) -> str:
    """The source of a network: a class `Network` and a function `example_inputs`."""
    body = Body(Genes(recipe.start))
    kinds: tuple[Kind, ...] = ("image", "image", "sequence", "vector", "line", "volume", "tokens")
    kind = body.genes.choose(kinds)
    x = body.new_input(kind, body.genes.choose(SHAPES[kind]))
    if kind == "tokens":
        body.let(f"{body.attribute('embedding', 'nn.Embedding(11, 8)')}({x})", "sequence", (*x.shape, 8))
    for step in recipe.steps:
        body.genes = Genes(step.genes)
        since = len(body.values)
        OPERATORS[step.operator].write(body)
        settle(body, since)
    body.genes = Genes(recipe.end)
    style = body.genes.pick("positional", "keyword", "dict", "list")
    return _source(body, _head(body), style)


def _head(body: Body) -> str:
    """Join all that nothing has read yet and return it."""
    form = body.genes.pick("plain", "tuple", "list", "dict", "nested")
    loose = [value for value in body.values if not value.used]
    main = _dense_head(body, loose) if body.genes.pick(False, False, False, True) else _vector_head(body, loose)
    outputs = [main, *body.outputs]
    match form:
        case "plain":
            return main if len(outputs) == 1 else f"({', '.join(outputs)})"
        case "tuple":
            return f"({', '.join(outputs)},)"
        case "list":
            return f"[{', '.join(outputs)}]"
        case "dict":
            return "{" + ", ".join(f'"out{i}": {out}' for i, out in enumerate(outputs)) + "}"
        case _:
            return f'{{"main": {main}, "others": [{", ".join(outputs[1:])}]}}'


def _vector_head(body: Body, loose: list[Value]) -> str:
    """Every loose end as a vector; side by side into a Linear, or a Linear each."""
    ends = [bridge(body, value, "vector") for value in loose]
    if body.genes.pick(True, True, False):
        joined = f"{ends[0]}" if len(ends) == 1 else f"torch.cat([{text(ends)}], dim=1)"
        return f"{body.attribute('head', f'nn.Linear({sum(end.c for end in ends)}, 5)')}({joined})"
    return " + ".join(f"{body.attribute('head', f'nn.Linear({end.c}, 5)')}({end})" for end in ends)


def _dense_head(body: Body, loose: list[Value]) -> str:
    """One end stays an image, the others shift its channels."""
    images = [value for value in loose if value.kind == "image"]
    main = images[-1] if images else bridge(body, loose[-1], "image")
    out = f"{body.attribute('head', f'nn.Conv2d({main.c}, 3, 1)')}({main})"
    for value in loose:
        if value is not (images or loose)[-1]:
            end = bridge(body, value, "vector")
            out += f" + {body.attribute('shift', f'nn.Linear({end.c}, 3)')}({end})[:, :, None, None]"
    return out


def _source(body: Body, result: str, style: str) -> str:
    inputs = [value.name for value in body.inputs]
    if style == "keyword" and len(inputs) > 1:
        signature, unpack = f"{inputs[0]}: Tensor, *, {', '.join(f'{name}: Tensor' for name in inputs[1:])}", []
        call = f"({inputs[0]},), {{{', '.join(f'{name!r}: {name}' for name in inputs[1:])}}}".replace("'", '"')
    elif style == "dict":
        signature, unpack = "inputs: dict[str, Tensor]", [f'{name} = inputs["{name}"]' for name in inputs]
        call = f"({{{', '.join(f'{name!r}: {name}' for name in inputs)}}},), {{}}".replace("'", '"')
    elif style == "list":
        signature, unpack = "inputs: list[Tensor]", [f"{', '.join(inputs)}{',' if len(inputs) == 1 else ''} = inputs"]
        call = f"([{', '.join(inputs)}],), {{}}"
    else:
        signature, unpack = ", ".join(f"{name}: Tensor" for name in inputs), []
        call = f"({', '.join(inputs)},), {{}}"
    made = "\n".join(f"    {_made(value)}" for value in body.inputs)
    helpers = "".join(f"\n{definition}\n" for definition in body.helpers.values())
    setup = textwrap.indent("\n".join(["super().__init__()", *body.setup]), " " * 8)
    steps = textwrap.indent("\n".join([*unpack, *body.steps, f"return {result}"]), " " * 8)
    return f"""{HEADER}{helpers}
class Network(nn.Module):
    def __init__(self):
{setup}

    def forward(self, {signature}):
{steps}


def example_inputs(batch=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
{made}
    return {call}
"""


def _made(value: Value) -> str:
    if value.kind == "tokens":
        return f"{value} = torch.randint(0, 11, (batch, {text(value.shape)}), generator=generator)"
    return f"{value} = torch.randn(batch, {text(value.shape)}, generator=generator, dtype=dtype)"
