"""Failing networks become small without hypothesis, too."""

from __future__ import annotations

import pytest

from tests.networks.minimise import minimise
from tests.networks.random_networks import RandomNetwork, random_network


def uses_gru(network: RandomNetwork) -> bool:
    return "nn.GRU(" in network.source


def test_what_does_not_matter_goes() -> None:
    seed = next(seed for seed in range(100) if uses_gru(random_network(seed)))
    small = minimise(random_network(seed), uses_gru)
    assert "recurrent_layers" in small.operators and len(small.operators) <= 2
    assert sum(len(step.genes.replace(b"\0", b"")) for step in small.recipe.steps) <= 3
    assert len(small.recipe.start) <= 1 and small.recipe.end == b""


def test_what_does_not_fail_is_refused() -> None:
    with pytest.raises(AssertionError, match="does not fail"):
        minimise(random_network(0), lambda network: False)
