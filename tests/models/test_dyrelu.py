from __future__ import annotations

import math

import numpy
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import fxsparse
from fxsparse.models import DyReLU

SHAPES = [(3, 8), (3, 8, 5), (3, 8, 5, 4), (2, 8, 3, 4, 2)]


Array = NDArray[numpy.float64]


def by_numpy(module: DyReLU, x: Array, beta: float) -> Array:
    """The paper's formula, channel by channel."""
    w1, b1, w2, b2 = (p.detach().numpy() for p in (module.fc1.weight, module.fc1.bias, module.fc2.weight, module.fc2.bias))
    result = numpy.empty_like(x)
    channels = x.shape[1]
    for n in range(x.shape[0]):
        mean = numpy.array([x[n, c].mean() for c in range(channels)])
        hidden = numpy.maximum(w1 @ mean + b1, 0)
        theta = 2 / (1 + numpy.exp(-(w2 @ hidden + b2))) - 1
        for c in range(channels):
            given = theta[c], theta[channels + c], 0.5 * theta[2 * channels + c], 0.5 * theta[3 * channels + c]
            a1, a2, o1, o2 = (beta * value for value in given)
            result[n, c] = numpy.maximum((1 + a1) * x[n, c] + o1, a2 * x[n, c] + o2)
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_without_beta_it_is_relu_bit_for_bit(shape: tuple[int, ...]) -> None:
    module, x = DyReLU(8), torch.randn(shape)
    x.view(-1)[:6] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, -1e-45])
    module.beta.zero_()
    assert torch.equal(module(x).view(torch.int32), torch.relu(x).view(torch.int32))


@pytest.mark.parametrize("beta", [1.0, 0.25])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape: tuple[int, ...], beta: float) -> None:
    module, x = DyReLU(8).double(), torch.randn(shape, dtype=torch.float64)
    module.beta.fill_(beta)
    expected = by_numpy(module, x.numpy(), beta)
    numpy.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=0, atol=1e-12)
    assert abs(expected - x.clamp(min=0).numpy()).max() > 0.01


def test_gradients_reach_input_and_parameters() -> None:
    module, x = DyReLU(8).double(), torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)
    module(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("beta", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 8, 1, 1)])
def test_gradients_are_those_that_torch_derives(shape: tuple[int, ...], beta: float) -> None:
    module, x, weights = DyReLU(8).double(), torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    module.beta.fill_(beta)

    def derived(x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(2).mean(2) if x.dim() > 2 else x
        theta = module.beta * (2 * module.fc2(module.fc1(mean).relu()).sigmoid() - 1)
        a1, a2, o1, o2 = theta.reshape(-1, 4, 8, *[1] * (x.dim() - 2)).unbind(1)
        dynamic = torch.maximum((1 + a1) * x + o1 / 2, a2 * x + o2 / 2)
        return x.relu() if beta == 0 else dynamic

    found = []
    for function in (module, derived):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        (function(leaf) * weights).sum().backward()
        found.append([leaf.grad, *(p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_have_the_dtype_of_what_they_belong_to() -> None:
    module, x = DyReLU(8), torch.randn(2, 8, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        made = module(x)
    made.sum().backward()
    assert made.dtype == torch.bfloat16
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in module.parameters())


def test_beta_is_saved_and_not_trained() -> None:
    module = DyReLU(8)
    assert "beta" in module.state_dict()
    assert "beta" not in dict(module.named_parameters())


def test_parameters_of_a_resnet34_are_as_many_as_published() -> None:
    widths = [64] * 7 + [128] * 8 + [256] * 12 + [512] * 6
    with torch.device("meta"):
        assert sum(parameter.numel() for width in widths for parameter in DyReLU(width).parameters()) == 3_181_168


def test_it_is_pruned_like_any_operator() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), DyReLU(16), nn.Conv2d(16, 8, 3), DyReLU(8), nn.Flatten(2), nn.Flatten(1), nn.Linear(8 * 64, 5)
    )
    network = fxsparse.trace(model.eval(), torch.randn(2, 3, 12, 12))
    keep = {group.name: list(group.units)[::2] for group in network.groups if group.prunable}
    small = network.shrink(keep)
    assert fxsparse.verify(network, small).max_error < 1e-9
    assert small.module.state_dict()["1.fc2.weight"].shape == (4 * 8, 2)
