"""The methods: exact counts at every moment, and what each of them drops and grows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxsparse.errors import BudgetError, Error
from fxsparse.sparsity.schedules import Cyclic
from fxsparse.training import SET, Extreme, Gradual, OneShot, RigL, Sparsifier, Static
from fxsparse.training.methods import usual_interval
from tests.training.small import backward, network, require_masked, same, sgd, state, train, weight

STEPS = 40
WEIGHTS = 16 * 27 + 32 * 144 + 128
METHODS: list[tuple[type[Sparsifier], dict[str, Any]]] = [
    (Static, {}),
    (OneShot, {}),
    (SET, {"steps": STEPS, "interval": 4}),
    (RigL, {"steps": STEPS, "interval": 4}),
    (Gradual, {"steps": STEPS, "interval": 4}),
]


@pytest.mark.parametrize("allocation", ["erk", "uniform", "global", {"0": 0.5, "*": 0.1}])
@pytest.mark.parametrize(("method", "options"), METHODS, ids=[method.__name__ for method, _ in METHODS])
def test_counts_are_exact_after_every_step(method: type[Sparsifier], options: dict[str, Any], allocation: Any) -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = method(model, optimizer, 0.2, allocation=allocation, **options)
    for step in range(STEPS):
        train(model, optimizer, sparsifier, range(step, step + 1))
        require_masked(optimizer, sparsifier)
        done, schedule = sparsifier.steps_done, sparsifier.budget.schedule
        asked = schedule(done if done >= schedule.end else done // sparsifier.interval * sparsifier.interval)
        assert sum(sparsifier.nonzeros.values()) == round(asked * WEIGHTS)
    assert sum(sparsifier.nonzeros.values()) == round(0.2 * WEIGHTS)
    assert sparsifier.density == round(0.2 * WEIGHTS) / WEIGHTS


@given(st.floats(0.001, 1.0), st.integers(1, 5), st.floats(0, 1), st.sampled_from(["erk", "uniform", "global"]))
@settings(max_examples=25, deadline=None)
def test_any_density_interval_and_fraction(density: float, interval: int, fraction: float, allocation: str) -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, density, steps=6, interval=interval, fraction=fraction, allocation=allocation)
    train(model, optimizer, sparsifier, range(6))
    require_masked(optimizer, sparsifier)
    assert sum(sparsifier.nonzeros.values()) == round(density * WEIGHTS)


def test_rigl_by_hand() -> None:
    """Six weights, three live; at the update one third of them, one, goes. With lr 1: w <- w - g for those that live."""
    layer = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.0, 4.0, 3.0, 0.5, 0.2, 0.1]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.5)
    rigl = RigL(layer, optimizer, 0.5, steps=100, interval=2, fraction=1 / 3, stop=1.0, start="magnitude")
    assert rigl.masks["weight"].tolist() == [[True, True, True, False, False, False]]
    assert layer.weight.tolist() == [[5.0, 4.0, 3.0, 0.0, 0.0, 0.0]]

    first = torch.tensor([[1.0, 1.0, 1.0, 9.0, 0.0, 0.0]])  # the growth looks at the second step's gradient alone
    layer.weight.grad = first.clone()
    rigl.step()
    assert layer.weight.tolist() == [[4.0, 3.0, 2.0, 0.0, 0.0, 0.0]]

    # Momentum is 0.5 * 1 + g, so the weights become 4 - 1.5, 3 - 2.5, 2 - 0.5 = 2.5, 0.5, 1.5: the second goes.
    # Of those that do not stay, |gradient| is 2 (the second), 0.5, 7, 3: the fifth grows, and the second does not come back.
    layer.weight.grad = torch.tensor([[1.0, 2.0, 0.0, 0.5, -7.0, 3.0]])
    rigl.step()
    assert rigl.masks["weight"].tolist() == [[True, False, True, False, True, False]]
    assert layer.weight.tolist() == [[2.5, 0.0, 1.5, 0.0, 0.0, 0.0]]
    momentum = optimizer.state[layer.weight]["momentum_buffer"]
    assert momentum.tolist() == [[1.5, 0.0, 0.5, 0.0, 0.0, 0.0]]
    assert rigl.metrics() == {"nonzeros": 3, "density": 0.5, "empty_layers": 0, "dropped": 1, "grown": 1}


def test_dropped_and_grown_at_once_keeps_its_value() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.0, 4.0, 0.0, 0.0]]))
    rigl = RigL(layer, torch.optim.SGD(layer.parameters(), lr=0.1), 0.5, steps=100, interval=1, fraction=0.5, stop=1.0, start="magnitude")
    layer.weight.grad = torch.tensor([[0.0, 10.0, 1.0, 1.0]])
    rigl.step()
    assert rigl.masks["weight"].tolist() == [[True, True, False, False]]
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[5.0, 3.0, 0.0, 0.0]]))
    assert rigl.exchanged == {"dropped": 0, "grown": 0}


def test_rigl_grows_by_the_dense_gradient_of_the_whole_accumulated_batch() -> None:
    model = network(norms=False)
    optimizer = sgd(model, momentum=0.0)
    rigl = RigL(model, optimizer, 0.1, steps=1000, interval=1, stop=1.0)
    other = network(norms=False)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    backward(other, 0)
    backward(other, 1)
    old = {name: mask.clone() for name, mask in rigl.masks.items()}
    backward(model, 0)
    backward(model, 1)
    rigl.step()
    gradients = dict(other.named_parameters())
    for name, mask in rigl.masks.items():
        grown, rest = mask & ~old[name], ~mask
        worth = gradients[name].grad
        assert worth is not None
        assert not grown.any() or worth[grown].abs().min() >= worth[rest & ~old[name]].abs().max()


def test_set_grows_by_chance_and_chance_is_seeded() -> None:
    masks = []
    for seed in (0, 0, 1):
        model = network()
        optimizer = sgd(model)
        sparsifier = SET(model, optimizer, 0.1, steps=STEPS, interval=5, seed=seed)
        train(model, optimizer, sparsifier, range(20))
        masks.append(dict(sparsifier.masks))
    assert same(masks[0], masks[1])
    assert not same(masks[0], masks[2])


def test_the_exchange_ends_at_three_quarters() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.1, steps=STEPS, interval=5)
    assert [step for step in range(1, STEPS + 1) if sparsifier.due(step)] == [5, 10, 15, 20, 25]
    train(model, optimizer, sparsifier, range(30))
    late = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, optimizer, sparsifier, range(30, STEPS))
    assert same(late, dict(sparsifier.masks))


def test_gradual_follows_the_cubic_curve_and_keeps_the_largest() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = Gradual(model, optimizer, 0.1, steps=100, begin=0.1, end=0.5, interval=10)
    found = {}
    for step in range(60):
        train(model, optimizer, sparsifier, range(step, step + 1))
        found[step + 1] = sum(sparsifier.nonzeros.values())
    assert found[10] == WEIGHTS
    assert found[30] == round((0.1 + 0.9 * (1 - 20 / 40) ** 3) * WEIGHTS)
    assert found[50] == found[60] == round(0.1 * WEIGHTS)


def test_one_shot_keeps_the_largest() -> None:
    model = network()
    before = weight(model, "3").detach().abs().clone()
    sparsifier = OneShot(model, sgd(model), 0.1, allocation="uniform")
    mask = sparsifier.masks["3.weight"]
    assert before[mask].min() >= before[~mask].max()


def test_density_that_rises_and_falls() -> None:
    """Rising, weights are grown only; falling, they are dropped only; in the end the count is exact."""
    model = network()
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, optimizer, Cyclic(0.05, 0.15, period=20, cycles=2), interval=2, grow="gradient")
    train(model, optimizer, sparsifier, range(2))
    for step in range(2, 40):
        before = sum(sparsifier.nonzeros.values())
        train(model, optimizer, sparsifier, range(step, step + 1))
        after = sum(sparsifier.nonzeros.values())
        if after > before:
            assert sparsifier.exchanged["dropped"] == 0
        if after < before:
            assert sparsifier.exchanged["grown"] == 0
    assert sum(sparsifier.nonzeros.values()) == round(0.05 * WEIGHTS)


def test_a_method_in_ten_lines() -> None:
    """A new method is a choice of scores: drop by |w g|, grow by |g|."""

    class Sensitive(Sparsifier):
        def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, density: float) -> None:
            super().__init__(model, optimizer, density, fraction=0.3, drop="taylor", grow="gradient", interval=3)

    model = network()
    optimizer = sgd(model)
    sparsifier = Sensitive(model, optimizer, 0.1)
    before = state(model, optimizer, sparsifier)["sparsifier"]["masks"]
    train(model, optimizer, sparsifier, range(7))
    require_masked(optimizer, sparsifier)
    assert not same(before, dict(sparsifier.masks))


@pytest.mark.parametrize("pattern", ["block:4x4", "channel", "2:4"])
@pytest.mark.parametrize("name", ["static", "set", "rigl", "gradual"])
def test_patterns_hold_through_every_renewal(name: str, pattern: str) -> None:
    model = network()
    optimizer = sgd(model)
    options: dict[str, Any] = {"pattern": pattern, "interval": 3}
    if pattern != "channel":
        options["exclude"] = ["0"]  # three input channels
    density = None if pattern == "2:4" else 0.25
    if name == "gradual" and density is None:
        with pytest.raises(BudgetError):
            Gradual(model, optimizer, 0.25, steps=STEPS, **options)
        return
    kinds: dict[str, Any] = {"static": Static, "set": SET, "rigl": RigL, "gradual": Gradual}
    sparsifier = kinds[name](model, optimizer, density, steps=STEPS, **options)
    seen = set()
    for step in range(STEPS):
        train(model, optimizer, sparsifier, range(step, step + 1))
        require_masked(optimizer, sparsifier)
        seen.add(tuple(mask.int().sum().item() for mask in sparsifier.masks.values()))
        for mask in sparsifier.masks.values():
            if pattern == "2:4":
                assert (mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()
            else:
                assert set(sparsifier.pattern.pool(mask.float()).flatten().tolist()) <= {0.0, 1.0}
    total = sum(mask.numel() for mask in sparsifier.masks.values())
    wanted = (density or 0.5) * total
    largest = max(sparsifier.budget.units.values())
    assert wanted - largest <= sum(sparsifier.nonzeros.values()) <= wanted
    assert len(seen) > 1 or name != "gradual"


def test_transposed_convolutions_take_no_pattern() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 2), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(Error, match=r"0\.weight belongs to a transposed convolution, whose axes 2:4 does not know"):
        Static(model, sgd(model), pattern="2:4")
    assert sum(Static(model, sgd(model), 0.5).nonzeros.values()) == (4 * 8 * 4 + 32) // 2


@pytest.mark.parametrize("kind", [SET, RigL, Gradual, Extreme])
def test_short_runs_are_renewed_as_well(kind: Any) -> None:
    """With the interval of long runs, RigL would be static here, and gradual pruning one-shot."""
    model = network()
    optimizer = sgd(model)
    sparsifier = kind(model, optimizer, 0.1, steps=60)
    assert sum(sparsifier.due(step) for step in range(1, 61)) >= 10
    assert [usual_interval(steps) for steps in (1, 60, 1000, 1999, 2000, 10**6)] == [1, 3, 50, 99, 100, 100]
