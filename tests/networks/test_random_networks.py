"""The generator itself: what it writes runs, nothing in it is dead, and all of its families are reached."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.networks.complaints import COMPLAINTS, Complaint
from tests.networks.random_networks import FAMILIES, RandomNetwork, networks, random_network


def outputs(network: RandomNetwork, batch: int, dtype: torch.dtype, training: bool) -> list[Tensor]:
    args, kwargs = network.example_inputs(batch, dtype=dtype)
    module = network.build(0).to(dtype).train(training)
    return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]


def assert_sound(network: RandomNetwork) -> None:
    """Finite and moderate numbers in both modes and precisions, for any batch."""
    for batch, dtype, training in ((2, torch.float32, False), (1, torch.float64, False), (3, torch.float32, True)):
        results = outputs(network, batch, dtype, training)
        assert results
        for result in results:
            assert result.dtype == dtype
            assert result.abs().max() < 1e4, repr(network)


@given(networks())
@settings(max_examples=15)
def test_every_network_runs(network: RandomNetwork) -> None:
    assert_sound(network)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs(family: str) -> None:
    for seed in range(3):
        network = random_network(seed, 3, 6, require=[family])
        assert {operator.name for operator in FAMILIES[family].operators} & set(network.operators)
        assert_sound(network)


def test_every_operator_is_reached() -> None:
    everything = {operator.name for family in FAMILIES.values() for operator in family.operators}
    seen = {name for seed in range(300) for name in random_network(seed).operators}
    assert seen == everything


def test_a_seed_is_a_network() -> None:
    assert random_network(3).source == random_network(3).source
    assert random_network(3).source != random_network(4).source


def test_a_build_is_repeatable() -> None:
    network = random_network(5)
    one, two = network.build(1).state_dict(), network.build(1).state_dict()
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())


def test_what_it_prints_can_be_pasted() -> None:
    exec(compile(repr(random_network(7, 5, 10)), "pasted", "exec"), {"__name__": "pasted"})


@pytest.mark.parametrize("complaint", COMPLAINTS, ids=lambda complaint: complaint.name)
def test_complaints_run(complaint: Complaint) -> None:
    for leaf in tree_leaves(complaint.build().eval()(*complaint.example_inputs())):
        assert torch.isfinite(leaf).all()
