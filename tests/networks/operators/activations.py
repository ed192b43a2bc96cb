"""Element-wise functions, in place too, and dropout."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take, take_map
from tests.networks.layers import project

activations = Family("activations")
dropouts = Family("dropouts")
MODULES = (
    "ReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Hardswish", "LeakyReLU", "ELU", "Softplus", "ReLU6", "Hardsigmoid", "Hardtanh", "SELU", "CELU",
    "Mish", "LogSigmoid", "Softsign", "Tanhshrink", "Softshrink", "Hardshrink", "Identity",
)  # fmt: skip
FUNCTIONS = (
    "F.relu({x})", "torch.sigmoid({x})", "{x}.tanh()", "F.gelu({x}, approximate='tanh')", "torch.cos({x})", "torch.exp(-{x}.abs())", "{x}.clamp(-2, 2)",
    "F.softplus({x})", "torch.sqrt({x} * {x} + 1)", "{x} * torch.sigmoid(1.702 * {x})", "torch.where({x} > 0, {x}, 0.1 * {x})", "1 - {x}", "2 / (1 + {x} ** 2)",
    "torch.maximum({x}, -0.2 * {x})", "{x} - 0.5", "F.leaky_relu({x}, 0.2)", "-{x}.abs()", "torch.erf({x})", "{x}.sin().square()", "F.hardswish({x})",
)  # fmt: skip


@activations.operator(weight=5)
def activation_module(body: Body) -> None:
    x = take(body)
    body.like(x, f"{body.attribute('act', f'nn.{body.genes.choose(MODULES)}()')}({x})")


@activations.operator(weight=3)
def activation_function(body: Body) -> None:
    x = take(body)
    body.like(x, body.genes.choose(FUNCTIONS).format(x=x))


@activations.operator()
def activation_in_place(body: Body) -> None:
    """On a tensor that nobody has read yet."""
    x = take(body)
    y = project(body, x, body.width())
    y.used = True
    form = body.genes.pick("F.relu_({y})", "{y}.sigmoid_()", "F.hardswish({y}, inplace=True)", "{y}.mul_(0.5).add_(1)", "{y}.clamp_(min=-1)", "module")
    if form == "module":
        form = body.attribute("act", f"nn.{body.genes.pick('ReLU', 'SiLU', 'ELU', 'ReLU6')}(inplace=True)") + "({y})"
    body.like(y, form.format(y=y))


@activations.operator()
def prelu(body: Body) -> None:
    x = take_map(body)
    layer = body.attribute("act", f"nn.PReLU({body.genes.pick(x.c, 1)})")
    body.like(x, f"{layer}({x})")


@dropouts.operator()
def dropout(body: Body) -> None:
    x = take(body)
    if x.kind == "image" and body.genes.flag():
        body.like(x, f"{body.attribute('drop', 'nn.Dropout2d(0.1)')}({x})")
    else:
        body.like(x, body.genes.pick(f"F.dropout({x}, 0.1, self.training)", f"{body.attribute('drop', 'nn.Dropout(0.2)')}({x})"))
