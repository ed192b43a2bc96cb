"""The generator itself: what it writes runs, nothing in it is dead, all of it is reached, and a failure can be pasted."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis.vendor.pretty import pretty
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.networks.random_networks import FAMILIES, OPERATORS, RandomNetwork, networks, random_network

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def outputs(network: RandomNetwork, batch: int, dtype: torch.dtype = torch.float64, training: bool = False) -> list[Tensor]:
    args, kwargs = network.example_inputs(batch, dtype=dtype)
    module = network.build(0).to(dtype).train(training)
    return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]


def assert_sound(network: RandomNetwork) -> None:
    """Finite, moderate and repeatable numbers in both modes and precisions, for any batch."""
    for batch, dtype, training in (
        (2, torch.float32, False),
        (1, torch.float64, False),
        (5, torch.float64, False),
        (3, torch.float32, True),
    ):
        results = outputs(network, batch, dtype, training)
        assert results
        for result in results:
            assert result.dtype == dtype
            assert result.shape[0] == batch
            assert result.isfinite().all()
            assert result.abs().max() < 1e5
    assert all(torch.equal(a, b) for a, b in zip(outputs(network, 3), outputs(network, 3), strict=True))


@given(networks())
@settings(max_examples=25)
def test_every_network_runs(network: RandomNetwork) -> None:
    assert_sound(network)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_when_required(family: str) -> None:
    for seed in range(3):
        network = random_network(seed, 3, 6, require=[family])
        assert {operator.name for operator in FAMILIES[family].operators} & set(network.operators)
        assert_sound(network)


def test_families_can_be_restricted() -> None:
    network = random_network(1, 10, 10, families=["linears", "attention"])
    assert {OPERATORS[name].family for name in network.operators} <= {"linears", "attention"}
    assert len(network.operators) == 10


@given(networks(min_ops=2, max_ops=4, families=["convolutions", "joins"], require=["mixing"]))
@settings(max_examples=20)
def test_strategy_holds_its_limits(network: RandomNetwork) -> None:
    drawn = [OPERATORS[name].family for name in network.operators]
    assert 2 <= len(drawn) <= 4
    assert set(drawn) <= {"convolutions", "joins", "mixing"} and drawn.count("mixing") >= 1


def test_unknown_families_are_refused() -> None:
    with pytest.raises(AssertionError, match="no such families: \\['convolution'\\]"):
        random_network(0, families=["convolution"])


def test_every_operator_is_reached() -> None:
    seen = {name for seed in range(400) for name in random_network(seed).operators}
    assert seen == set(OPERATORS)


def test_networks_differ() -> None:
    """Inputs, outputs and kinds of tensors vary as well."""
    sources = [random_network(seed).source for seed in range(200)]
    assert len(set(sources)) == 200
    for trait in (
        "*, input",
        "inputs: dict",
        "inputs: list",
        'return {"',
        "return (",
        "return [",
        "torch.randint(",
        "nn.Conv3d(",
        "nn.Conv1d(",
    ):
        assert any(trait in source for source in sources), trait


def test_nothing_is_dead() -> None:
    """Every parameter gets a gradient, and almost none of them is zero throughout."""
    zero, everything = 0, 0
    for seed in range(20):
        network = random_network(seed)
        module = network.build(seed).double()
        args, kwargs = network.example_inputs(4, seed, torch.float64)
        torch.stack([leaf.square().sum() for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]).sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{name} is not used in\n{network!r}"
            zero += not parameter.grad.any()
            everything += 1
    assert zero < 0.05 * everything


def test_values_hide_nothing() -> None:
    for seed in range(10):
        for name, tensor in random_network(seed).build(seed).state_dict().items():
            if tensor.is_floating_point() and "running_mean" not in name and tensor.numel() > 1:
                assert tensor.std() > 1e-3, name


def test_a_seed_is_a_network() -> None:
    assert random_network(3) == random_network(3)
    assert random_network(3).source == random_network(3).source
    assert random_network(3).source != random_network(4).source
    assert not re.search(r"0x[0-9a-f]{6,}|object at", random_network(3).source)


def test_a_build_is_repeatable() -> None:
    network = random_network(5)
    one, two, other = (network.build(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    assert not all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@pytest.mark.parametrize("seed", range(5))
def test_what_it_prints_can_be_pasted(seed: int) -> None:
    network = random_network(seed, 5, 20)
    pasted: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(repr(network), "pasted", "exec", dont_inherit=True), pasted)
    expected = network.build(0).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in pasted["network"].state_dict().items())


def test_hypothesis_prints_the_program() -> None:
    network = random_network(2, 5, 8)
    assert repr(network) in pretty(network)


def test_failures_shrink() -> None:
    """A condition that one operator meets leaves little else."""
    network = find(networks(min_ops=1), lambda network: "nn.GRU(" in network.source, settings=settings(max_examples=2000, database=None))
    assert "recurrent_layers" in network.operators and len(network.operators) <= 2
    assert len(network.source.splitlines()) < 40


def test_tracebacks_show_the_source() -> None:
    network = next(network for network in map(random_network, range(20)) if "randint" not in network.source)
    args, kwargs = network.example_inputs(dtype=torch.float64)
    with pytest.raises(RuntimeError) as caught:
        network.build()(*args, **kwargs)
    assert any("self." in str(entry.statement) and "random network" in str(entry.path) for entry in caught.traceback)
