"""SR-STE against its equation, written out plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxsparse.errors import BudgetError, Error
from fxsparse.sparsity.patterns import NM
from fxsparse.training import SRSTE, StraightThrough
from tests.training.small import same, state, weight

DECAY = 0.01


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    inputs, wanted = torch.randn(10, 8, generator=generator), torch.randn(10, 4, generator=generator)
    loss: Tensor = (model(inputs) - wanted).square().mean()
    return loss


def two_of_four(dense: Tensor) -> Tensor:
    """The mask, by a loop."""
    mask = torch.zeros_like(dense, dtype=torch.bool)
    for row in range(dense.shape[0]):
        for start in range(0, dense.shape[1], 4):
            order = sorted(range(4), key=lambda i: -abs(float(dense[row, start + i])))
            for i in order[:2]:
                mask[row, start + i] = True
    return mask


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_equation(momentum: float) -> None:
    """w <- w - lr * v, v <- momentum * v + g(m * w) + decay * (1 - m) * w, on dense weights w."""
    model = network()
    dense = [weight(model, layer).detach().clone() for layer in "02"]
    velocity = [torch.zeros_like(each) for each in dense]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    sparsifier = SRSTE(model, optimizer, steps=10, decay=DECAY)
    plain = network()
    for step in range(10):
        masks = [two_of_four(each) for each in dense]
        with torch.no_grad():
            for layer, each, mask in zip("02", dense, masks, strict=True):
                weight(plain, layer).copy_(each * mask)
        for layer, mask in zip("02", masks, strict=True):
            assert torch.equal(weight(model, layer).detach() != 0, mask)
            torch.testing.assert_close(weight(model, layer), weight(plain, layer))
        gradients = torch.autograd.grad(loss_of(plain, step), list(plain.parameters()))
        for i, (gradient, mask) in enumerate(zip(gradients, masks, strict=True)):
            refined = gradient + DECAY * ~mask * dense[i]
            velocity[i] = momentum * velocity[i] + refined
            dense[i] = dense[i] - 0.1 * velocity[i]
        optimizer.zero_grad()
        loss_of(model, step).backward()
        sparsifier.step()
    hidden = sparsifier.hidden
    for name, each in zip(("0.weight", "2.weight"), dense, strict=True):
        torch.testing.assert_close(model.get_parameter(name).detach() + hidden[name], each)


def test_state_goes_on_bit_for_bit() -> None:
    def run(start: int, steps: int, saved: dict[str, dict[str, object]] | None) -> dict[str, object]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = SRSTE(model, optimizer, steps=10, decay=DECAY)
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            sparsifier.load_state_dict(saved["sparsifier"])
        for step in range(start, steps):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            sparsifier.step()
        return state(model, optimizer, sparsifier)

    half = run(0, 5, None)
    assert same(run(5, 10, half), run(0, 10, None))  # type: ignore[arg-type]


def test_other_densities_and_patterns() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = StraightThrough(model, optimizer, 0.3, steps=10, interval=2)
    for step in range(4):
        loss_of(model, step).backward()
        sparsifier.step()
        assert sum(sparsifier.nonzeros.values()) == round(0.3 * 192)
        assert sum(int(weight(model, layer).count_nonzero()) for layer in "02") == round(0.3 * 192)


def test_the_pattern_says_the_density() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BudgetError, match=r"the pattern 2:4 has the density 0\.5"):
        SRSTE(model, optimizer, 0.3)
    assert SRSTE(model, optimizer, pattern="1:4").density == 0.25


def test_n_of_m_must_divide() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, 3, 4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(Error, match=r"0.weight of shape \(8, 3, 3, 3\) cannot be 2:4.*exclude=\['0.weight'\]"):
        SRSTE(model, optimizer)
    assert same(before, dict(model.state_dict()))
    sparsifier = SRSTE(model, optimizer, exclude=["0"])
    assert sparsifier.pattern == NM(2, 4) and list(sparsifier.masks) == ["2.weight"]


class Often(torch.optim.Optimizer):
    """Asks for the loss several times, and goes a step each time, as those do that search along a line."""

    def step(self, closure: Any = None) -> Any:
        for _ in range(3):
            loss = closure()
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p -= 0.1 * p.grad
        return loss


def test_a_closure_may_be_asked_again() -> None:
    """Each time, the loss is that of the sparse network, and the step one of the dense weights."""
    model = network()
    dense = [p.detach().clone() for p in model.parameters()]
    optimizer = Often(model.parameters(), {})
    sparsifier = StraightThrough(model, optimizer, 0.25, decay=DECAY, interval=100)
    masks = [sparsifier.masks[target.name].clone() for target in sparsifier.targets]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss.detach()

    sparsifier.step(closure)
    for _ in range(3):
        inputs = [(p * mask).requires_grad_() for p, mask in zip(dense, masks, strict=True)]
        gradients = torch.autograd.grad(loss_of(_with(inputs), 0), inputs)
        dense = [p - 0.1 * (g + DECAY * ~mask * p) for p, g, mask in zip(dense, gradients, masks, strict=True)]
    for target, wanted, mask in zip(sparsifier.targets, dense, masks, strict=True):
        torch.testing.assert_close(target.parameter.detach(), wanted * mask)
        torch.testing.assert_close(sparsifier.hidden[target.name], wanted * ~mask)


def _with(weights: list[Tensor]) -> nn.Module:
    class Given(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ weights[0].T) @ weights[1].T

    return Given()
