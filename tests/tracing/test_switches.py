"""Blocks of `no_grad`, `enable_grad` and `autocast` inside a forward pass begin and end where they did, whoever calls the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Two(nn.Module):
    """Two layers and what is done with them."""

    def __init__(self, body: Callable[[Two, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.body = nn.Linear(4, 6), nn.Linear(6, 4), body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def frozen(model: Two, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = model.a(x)
    return model.b(h)  # type: ignore[no-any-return]


def nested(model: Two, x: Tensor) -> Tensor:
    with torch.no_grad():
        with torch.enable_grad():
            h = model.a(x)
        k = model.a(x)
        with torch.set_grad_enabled(True):
            k = k + model.a(x)
    return model.b(h) + model.b(k)  # type: ignore[no-any-return]


def switched(model: Two, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        h = model.a(x)
    return model.b(h) + model.a(x)[:, :4]  # type: ignore[no-any-return]


def decorated(model: Two, x: Tensor) -> Tensor:
    @torch.set_grad_enabled(False)
    def first(x: Tensor) -> Tensor:
        return model.a(x)  # type: ignore[no-any-return]

    second = torch.no_grad()(model.a.forward)
    return model.b(first(x)) + second(x)[:, :4] + model.a(x)[:, :4]  # type: ignore[no-any-return]


def cast(model: Two, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        h = model.a(x)
    with torch.autocast("cpu", enabled=False):
        k = model.a(x)
    return model.b(h.float()) + model.b(k)  # type: ignore[no-any-return]


BODIES = (frozen, nested, switched, decorated, cast)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_blocks_are_those_of_the_model(body: Callable[[Two, Tensor], Tensor], gradients: bool, autocast: bool) -> None:
    model, x = Two(body), torch.randn(2, 4)
    network = fxsparse.trace(model, x)
    found = []
    for module in (model, network.module, fxsparse.trace(nn.Sequential(network.module), x).module):
        model.zero_grad()
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = module(x)
            assert torch.is_grad_enabled() is gradients and torch.is_autocast_enabled("cpu") is autocast
        if y.requires_grad:
            y.float().sum().backward()
        found.append((y, [p.grad for p in model.parameters()]))
    for y, grads in found[1:]:
        assert y.requires_grad is found[0][0].requires_grad and torch.equal(y, found[0][0])
        torch.testing.assert_close(grads, found[0][1])


def test_gradients_come_back_when_a_block_fails() -> None:
    network = fxsparse.trace(Two(frozen), torch.randn(2, 4))
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 5))
    assert torch.is_grad_enabled()


def test_a_shrunk_network_keeps_its_blocks() -> None:
    network = fxsparse.trace(Two(frozen), torch.randn(2, 4))
    small = network.shrink({"a": range(4)})
    assert fxsparse.verify(network, small).effect > 0
    assert small(torch.randn(2, 4)).requires_grad and torch.is_grad_enabled()
