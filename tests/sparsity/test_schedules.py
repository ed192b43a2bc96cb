"""Numbers over steps, and scores of weights."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsparse.errors import Error
from fxsparse.sparsity import Cosine, Cubic, Cyclic, Linear, Mean, Weight, as_schedule, as_score
from fxsparse.sparsity.chance import generator, seed_of
from fxsparse.sparsity.scores import reads_gradient


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 50), st.integers(1, 50), st.integers(0, 120))
def test_ramps_stay_between_their_ends(first: float, last: float, begin: int, length: int, step: int) -> None:
    for kind in (Linear, Cosine, Cubic):
        schedule = kind(first, last, begin=begin, end=begin + length)
        assert min(first, last) - 1e-9 <= schedule(step) <= max(first, last) + 1e-9
        assert schedule(begin) == pytest.approx(first) and schedule(begin + length) == last == schedule(10**6)


def test_known_values() -> None:
    assert Cosine(0.3, 0.0, end=100)(25) == pytest.approx(0.3 * (1 + math.cos(math.pi / 4)) / 2)
    assert Cubic(1.0, 0.1, end=10)(5) == pytest.approx(0.1 + 0.9 / 8)
    assert Linear(1.0, 0.0, end=0)(0) == 0.0
    assert as_schedule(0.5)(7) == 0.5 and as_schedule(0.5).end == 0


def test_cycles() -> None:
    cosine = Cyclic(0.1, 0.3, period=50, cycles=2)
    assert [cosine(step) for step in (0, 25, 50, 75, 100, 500)] == pytest.approx([0.1, 0.3, 0.1, 0.3, 0.1, 0.1])
    assert cosine(10) == pytest.approx(0.1 + 0.2 * (1 - math.cos(2 * math.pi / 5)) / 2)
    triangle = Cyclic(0.1, 0.3, period=50, shape="triangle")
    assert triangle(5) == pytest.approx(0.14) and triangle(45) == pytest.approx(0.14)


def test_what_is_no_schedule() -> None:
    for wrong in (lambda: Linear(1.0, 0.0, begin=5, end=4), lambda: Cyclic(0.1, 0.2, 0), lambda: Cyclic(0.1, 0.2, 5, shape="square")):  # type: ignore[arg-type]
        with pytest.raises(Error):
            wrong()


def weight(seed: int = 0, mask: bool = True) -> Weight:
    value, grad = torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([[-5.0, 1.0], [4.0, 0.0]])
    return Weight("w", value, torch.ones(2, 2, dtype=torch.bool) if mask else None, grad, seed)


def test_scores() -> None:
    assert as_score("magnitude")(weight()).tolist() == [[1.0, 2.0], [0.0, 3.0]]
    assert as_score("gradient")(weight()).tolist() == [[5.0, 1.0], [4.0, 0.0]]
    assert as_score("taylor")(weight()).tolist() == [[5.0, 2.0], [0.0, 0.0]]
    assert as_score("squared-taylor")(weight()).tolist() == [[25.0, 4.0], [0.0, 0.0]]
    chance = as_score("random")
    assert torch.equal(chance(weight(3)), chance(weight(3))) and not torch.equal(chance(weight(3)), chance(weight(4)))
    assert [reads_gradient(as_score(name)) for name in ("magnitude", "random", "gradient", "taylor")] == [False, False, True, True]


def test_a_mean_over_steps() -> None:
    mean = Mean("gradient")
    with pytest.raises(Error, match="no step was added to the mean score of w"):
        mean(weight())
    mean.add(weight())
    mean.add(Weight("w", weight().value, None, torch.zeros(2, 2), 0))
    assert mean(weight()).tolist() == [[2.5, 0.5], [2.0, 0.0]]
    file = io.BytesIO()
    torch.save(mean.state_dict(), file)
    file.seek(0)
    other = Mean("gradient")
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(weight()), mean(weight()))
    mean.clear()
    with pytest.raises(Error):
        mean(weight())
    assert other(weight()).tolist() == [[2.5, 0.5], [2.0, 0.0]]


def test_a_mean_in_half_precision_makes_no_ties() -> None:
    values = torch.linspace(0.1, 1, 64).bfloat16()
    mean = Mean("magnitude")
    for _ in range(20):
        mean.add(Weight("w", values, None, None, 0))
    torch.testing.assert_close(mean(Weight("w", values, None, None, 0)), values.float())


def test_chance_is_the_same_everywhere() -> None:
    assert seed_of("order", 0, 1) == seed_of("order", 0, 1) != seed_of("order", 0, 2)
    assert seed_of("a", 12) != seed_of("a1", 2)
    assert torch.rand(3, generator=generator("x", 1)).tolist() == torch.rand(3, generator=generator("x", 1)).tolist()
    assert 0 <= seed_of("x") < 2**56
