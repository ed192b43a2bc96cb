"""Passes in random order: whatever came before, the network is sound, provable, and comes back from disk."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsparse
from fxsparse import BudgetError, PassError, PlanError
from fxsparse.passes import Context, Pipeline, pass_names
from fxsparse.passes.equality import difference
from tests.networks.randomise import randomise


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))))
        return out


class Padded(nn.Conv2d):
    """A layer that is a function with the module's weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Blocks(nn.Module):
    """Stages of equal blocks, a layer as a function, a group norm, and a second graph for train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = Padded(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.stage1 = nn.Sequential(Block(8), Block(8), Block(8))
        self.down, self.groups = nn.Conv2d(8, 12, 1, stride=2), nn.GroupNorm(4, 12)
        self.stage2 = nn.Sequential(Block(12), Block(12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.sigmoid(self.groups(self.down(self.stage1(x))))
        x = F.dropout(self.stage2(x).mean((2, 3)), 0.1, self.training)
        out: Tensor = self.head(x)
        return out


# each with what it does to the function: nothing, or anything
TEXTS = {
    "prune{macs=0.7}": False,
    "prune{parameters=0.6,scope=local}": False,
    "prune{macs=0.8,criterion=taylor,align=2,steps=2}": False,
    "regrow{units=0.5}": True,
    "regrow{init=journal,only=[stage1*]}": False,
    "fold-batch-norm": True,
    "fold-batch-norm{exclude=[stage1.*]}": True,
    "recalibrate-batch-norm": False,
    "eliminate-dead-channels": True,
    "simplify": True,
    "mask{sparsity=0.9}": False,
    'mask{pattern="1:2"}': False,
    "mask{sparsity=0.5,pattern=channel,allocation=global,exclude=[head]}": False,
    "apply-masks": True,
    "add-bias{modules=[stem,stage1.0.conv1]}": True,
    "share-weights": False,
    "unshare-weights": True,
    "insert-dyrelu": False,
    "phase-dyrelu{beta=0.0}": False,
    "remove-dyrelu": True,
}
KNOWN = {text: same for text, same in TEXTS.items() if text.partition("{")[0] in pass_names()}


def model() -> nn.Module:
    torch.manual_seed(0)
    return randomise(Blocks().double())


def run(texts: list[str]) -> tuple[fxsparse.Network, list[str]]:
    """The network after these passes, and those that did not refuse."""
    network = fxsparse.trace(model(), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    data = [(torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4)) for _ in range(2)]
    done = []
    for text in texts:
        try:
            result = Pipeline.parse(text)(network, Context(data=data))
        except (PassError, BudgetError) as refusal:
            assert str(refusal)
            continue
        except PlanError as refusal:
            assert "make the change first, then prune" in str(refusal)
            continue
        if KNOWN[text]:
            assert difference(network, result.network) < 1e-9, text
        network = result.network
        done.append(text)
    return network, done


def check(network: fxsparse.Network) -> None:
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    assert network(x).isfinite().all()
    dense = network.regrow()
    assert fxsparse.verify(dense, network).max_error < 1e-9
    for key, mask in network.masks.items():
        assert not network.module.get_parameter(key)[~mask].any(), f"{key} has weights where its mask says no"
    with tempfile.TemporaryDirectory() as folder:
        fxsparse.save(network, folder)
        again = fxsparse.load(folder, model())
    assert list(again.module.state_dict()) == list(network.module.state_dict())
    assert torch.equal(again(x), network(x))
    assert again.edits == network.edits and again.provenance == network.provenance and set(again.masks) == set(network.masks)
    smaller = again.shrink({group.name: group.units[: max(1, len(group.units) // 2)] for group in again.groups if group.prunable})
    assert fxsparse.verify(again, smaller).max_error < 1e-9
    assert_trains(smaller)


def assert_trains(network: fxsparse.Network) -> None:
    module = network.module.train()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    loss: Any = module(torch.randn(4, 3, 8, 8, dtype=torch.float64)).square().mean()
    loss.backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in module.parameters())


@settings(max_examples=10)
@given(st.lists(st.sampled_from(sorted(KNOWN)), min_size=1, max_size=6))
def test_random_pipelines(texts: list[str]) -> None:
    network, _ = run(texts)
    check(network)


@pytest.mark.parametrize("second", KNOWN)
@pytest.mark.parametrize("first", ["prune{macs=0.7}", "fold-batch-norm"])
def test_every_pass_after_the_usual_ones(first: str, second: str) -> None:
    network, done = run([first, second])
    assert first in done
    assert network(torch.randn(1, 3, 8, 8, dtype=torch.float64)).isfinite().all()
    assert fxsparse.verify(network.regrow(), network).max_error < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("second", KNOWN)
@pytest.mark.parametrize("first", KNOWN)
def test_every_pass_after_every_other(first: str, second: str) -> None:
    check(run([first, second])[0])


def test_the_whole_way_from_a_mask_to_a_small_dense_network() -> None:
    text = "mask{sparsity=0.97,allocation=global},apply-masks,eliminate-dead-channels,fold-batch-norm,simplify"
    network = fxsparse.trace(model(), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    masked = Pipeline.parse("mask{sparsity=0.97,allocation=global}")(network).network
    result = Pipeline.parse(text)(network)
    assert result.network.parameter_count < 0.8 * network.parameter_count
    assert difference(masked, result.network) < 1e-9
    assert [line.partition(" (")[0] for line in result.network.provenance][-1] == "fold-batch-norm"
    check(result.network)
