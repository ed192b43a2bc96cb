"""What is asked of every network: traced faithfully, pruned provably, regrown bit for bit, saved and loaded."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import fxsparse
from tests.cases import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


def plan(network: fxsparse.Network, seed: int, share: float = 0.4) -> dict[str, list[int]]:
    chance = random.Random(seed)
    return {
        group.name: sorted(chance.sample(group.units, max(1, len(group.units) - max(1, int(len(group.units) * share)))))
        for group in network.groups
        if group.prunable
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def tensors(out: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def made(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, tuple[Any, ...], Case]:
    case: Case = request.param
    torch.manual_seed(1)
    return case.build().eval(), case.inputs(), case


def test_traced_module_is_the_model(made: tuple[torch.nn.Module, tuple[Any, ...], Case]) -> None:
    model, inputs, _ = made
    before = copy.deepcopy(model.state_dict())
    network = fxsparse.trace(model, inputs)
    with torch.no_grad():
        expected, got = tensors(model(*inputs)), tensors(network(*inputs))
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
        larger = tuple(torch.cat([x, x, x]) for x in inputs)
        assert all(torch.equal(a, b) for a, b in zip(tensors(model(*larger)), tensors(network(*larger)), strict=True))
    assert same(before, model.state_dict()) and list(network.module.state_dict()) == list(before)
    assert {id(p) for p in network.module.parameters()} == {id(p) for p in model.parameters()}


def test_shrink_is_proven_and_regrow_exact(made: tuple[torch.nn.Module, tuple[Any, ...], Case]) -> None:
    model, inputs, case = made
    network = fxsparse.trace(model, inputs)
    assert any(group.prunable for group in network.groups) == case.prunable
    for seed in range(3):
        keep = plan(network, seed)
        small = network.shrink(keep)
        proof = fxsparse.verify(network, small, inputs=inputs)
        assert proof.max_error <= 1e-9 and proof.removed
        assert list(small.module.state_dict()) == list(model.state_dict())
        assert same(small.regrow().module.state_dict(), model.state_dict())
        for key, tensor in small.module.state_dict().items():
            assert list(tensor.shape) == [len(index) for index in small.kept[key].values()]


def test_two_shrinks_are_one(made: tuple[torch.nn.Module, tuple[Any, ...], Case]) -> None:
    model, inputs, _ = made
    network = fxsparse.trace(model, inputs)
    keep = plan(network, 3, 0.6)
    half = {name: sorted({*units, *network.group(name).units[::2]}) for name, units in keep.items()}
    twice, once = network.shrink(half).shrink(keep), network.shrink(keep)
    assert same(twice.module.state_dict(), once.module.state_dict())
    assert dict(twice.kept) == dict(once.kept)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(tensors(twice(*inputs)), tensors(once(*inputs)), strict=True))


def test_saved_and_loaded(made: tuple[torch.nn.Module, tuple[Any, ...], Case], tmp_path: Path) -> None:
    model, inputs, case = made
    small = fxsparse.trace(model, inputs).shrink(plan(fxsparse.trace(model, inputs), 5))
    fxsparse.save(small, tmp_path / "out", journal=True)
    again = fxsparse.load(tmp_path / "out", case.build().eval())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(tensors(small(*inputs)), tensors(again(*inputs)), strict=True))
    assert same(again.module.state_dict(), small.module.state_dict())
    assert same(again.regrow().module.state_dict(), model.state_dict())


def test_shrunk_network_trains(made: tuple[torch.nn.Module, tuple[Any, ...], Case]) -> None:
    model, inputs, _ = made
    small = fxsparse.trace(model, inputs).shrink(plan(fxsparse.trace(model, inputs), 7))
    small.module.train()
    before = [p.detach().clone() for p in small.module.parameters()]
    torch.stack([t.square().mean() for t in tensors(small(*inputs))]).sum().backward()
    torch.optim.SGD(small.module.parameters(), lr=0.1).step()
    assert any(not torch.equal(a, b) for a, b in zip(before, small.module.parameters(), strict=True))
