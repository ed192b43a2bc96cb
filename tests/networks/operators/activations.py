"""Functions of one element, as modules, functions and methods, some in place; and dropout."""

from __future__ import annotations

from tests.networks.blocks.noise import StochasticDepth
from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take

activations = Family("activations")
dropouts = Family("dropouts")

_MODULES = (
    "ReLU()", "GELU()", "SiLU()", "Hardswish()", "LeakyReLU(0.1)", "Softplus()", "ELU()", "Mish()", "ReLU6()", "SELU()", "CELU()",
    'GELU(approximate="tanh")', "Softsign()", "LogSigmoid()", "Tanhshrink()", "Identity()", "Hardtanh(-1.5, 1.5)", "Threshold(0.1, -0.2)",
    "Softshrink(0.2)", "RReLU(0.1, 0.3)",
)  # fmt: skip
_BOUNDED = ("Sigmoid()", "Tanh()", "Hardsigmoid()", "Softsign()", "ReLU6()", "Hardtanh()")
_EXPRESSIONS = (
    "F.relu({x})", "F.gelu({x})", "{x}.sigmoid()", "torch.tanh({x})", "{x}.clamp(-1.0, 1.5)", "{x}.clamp(min=0)", "F.silu({x})",
    "F.leaky_relu({x}, 0.2)", "F.softplus({x})", "torch.sin({x})", "{x}.abs()", "torch.sqrt({x}.abs() + 0.1)", "torch.erf({x})",
    "{x} * 0.7 + 0.3", "1 - {x}", "-{x}", "{x} / (1 + {x}.abs())", "{x} * torch.sigmoid({x})", "torch.where({x} > 0, {x}, 0.1 * {x})",
    "{x}.masked_fill({x} < -1, -1.0)", "torch.maximum({x}, -{x})", "{x}.clone()", "torch.rsqrt({x} * {x} + 1)", "torch.relu({x})",
    "torch.exp(-{x}.abs())", "F.hardsigmoid({x})", "F.elu({x})", "torch.addcmul({x}, {x}, torch.tanh({x}), value=0.5)", "2 ** (-{x}.abs())",
)  # fmt: skip


@activations.operator(weight=4)
def activation_module(body: Body) -> None:
    x = take(body)
    body.like(x, f"{body.attribute('act', f'nn.{body.genes.choose(_MODULES)}')}({x})")


@activations.operator(weight=2)
def activation_bounded(body: Body) -> None:
    x = take(body)
    body.like(x, f"{body.attribute('act', f'nn.{body.genes.choose(_BOUNDED)}')}({x})", degree=1)


@activations.operator(weight=4)
def activation_function(body: Body) -> None:
    x = take(body)
    body.like(x, body.genes.choose(_EXPRESSIONS).format(x=x))


@activations.operator(weight=2)
def activation_in_place(body: Body) -> None:
    """In place, on a tensor that nobody else reads."""
    x = take(body)
    y = body.like(x, body.genes.pick(f"{x} + 0.25", f"{x}.clone()"))
    act = body.genes.pick("nn.ReLU(inplace=True)", "nn.Hardswish(inplace=True)", "nn.LeakyReLU(0.1, inplace=True)", "nn.SiLU(inplace=True)")
    match body.genes.pick("module", "method", "function", "augmented"):
        case "module":
            body.do(f"{body.attribute('act', act)}({y})")
        case "method":
            body.do(f"{y}.{body.genes.pick('relu_()', 'mul_(0.5)', 'clamp_(-1.0, 2.0)', 'add_(0.5)', 'neg_()')}")
        case "function":
            body.do(f"{y} = F.{body.genes.pick('relu', 'hardswish', 'leaky_relu')}({y}, inplace=True)")
        case _:
            body.do(f"{y} {body.genes.pick('*= 0.5', '+= 1', '-= 0.5', '/= 1.5')}")


@activations.operator(weight=2)
def prelu(body: Body) -> None:
    x = take(body, "image", "vector", "line", "volume")
    if body.genes.pick(False, False, True):
        body.like(x, f"F.prelu({x}, {body.parameter(x.c, hint='slope')})")
    else:
        body.like(x, f"{body.attribute('act', f'nn.PReLU({body.genes.pick(x.c, 1)})')}({x})")


@dropouts.operator()
def dropout(body: Body) -> None:
    x = take(body)
    kinds = {
        "image": ("Dropout(0.2)", "Dropout2d(0.2)"),
        "line": ("Dropout(0.2)", "Dropout1d(0.2)"),
        "volume": ("Dropout(0.2)", "Dropout3d(0.2)"),
    }
    made = body.genes.choose(kinds.get(x.kind, ("Dropout(0.2)", "AlphaDropout(0.1)")))
    body.like(x, f"{body.attribute('drop', f'nn.{made}')}({x})")


@dropouts.operator(weight=1)
def dropout_functional(body: Body) -> None:
    x = take(body)
    body.like(x, body.genes.pick(f"F.dropout({x}, 0.2, self.training)", f"F.dropout({x}, p=0.1, training=self.training)"))


@dropouts.operator(weight=1)
def stochastic_depth(body: Body) -> None:
    x = take(body)
    body.like(x, f"{x} + {body.block(StochasticDepth, 0.3)}(torch.tanh({x}))")
