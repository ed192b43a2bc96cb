"""Random generators of a model's own: what they draw is no constant of a graph, and they go on as if nothing had been traced."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse

BESIDE = np.random.default_rng(3)


class Noisy(nn.Module):
    """Scales by what its generator draws, in train mode."""

    def __init__(self, generator: Any, draw: Callable[[Any], float]) -> None:
        super().__init__()
        self.make, self.back, self.generator, self.draw = nn.Linear(4, 8), nn.Linear(8, 4), generator, draw

    def forward(self, x: Tensor) -> Tensor:
        y = self.make(x).relu()
        if self.training:
            y = y * self.draw(self.generator if self.generator is not None else BESIDE)
        result: Tensor = self.back(y)
        return result


KINDS: dict[str, Callable[[], Noisy]] = {
    "numpy": lambda: Noisy(np.random.default_rng(1), lambda g: float(g.random())),
    "old numpy": lambda: Noisy(np.random.RandomState(1), lambda g: float(g.normal())),
    "python": lambda: Noisy(random.Random(1), lambda g: float(g.random())),
    "beside the class": lambda: Noisy(None, lambda g: float(g.uniform(0.1, 1.0))),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_a_generator_of_its_own_draws_is_no_constant(kind: str) -> None:
    model, x = KINDS[kind](), torch.randn(3, 4)
    state = str(BESIDE.bit_generator.state)
    network = fxsparse.trace(model.eval(), x)
    assert state == str(BESIDE.bit_generator.state)
    assert "train mode stays in plain Python" in network.notes[0]
    mine, theirs = copy.deepcopy(network.module).train(), copy.deepcopy(model).train()
    before = BESIDE.bit_generator.state
    drawn = [theirs(x) for _ in range(3)]
    BESIDE.bit_generator.state = before
    for wanted in drawn:
        torch.testing.assert_close(mine(x), wanted)
    assert not torch.equal(drawn[0], drawn[1])
