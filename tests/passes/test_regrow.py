"""Growing back over random networks: the function stays, the budget holds, and what was remembered returns bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import fxsparse
from fxsparse.errors import BudgetError, PassError, PlanError
from fxsparse.network import Network
from fxsparse.passes.prune import Prune
from fxsparse.passes.regrow import Regrow
from tests.networks.checks import assert_same_state
from tests.networks.random_networks import RandomNetwork, networks


def outputs(network: Network, args: Any, kwargs: Any) -> list[Tensor]:
    """In float64, in eval mode, from a copy."""
    module = copy.deepcopy(network.module).double().eval()
    args, kwargs = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, kwargs))
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]


@settings(max_examples=15)
@given(networks(max_ops=10), st.integers(0, 100))
def test_random_networks_grow_without_a_change_of_function_and_return(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    call = network.example_inputs(2, seed)
    dense = fxsparse.trace(network.build(seed).eval(), call.args, call.kwargs)
    try:
        small = Prune(units=0.6, seed=seed, criterion="random")(dense).network
    except (BudgetError, PassError):
        return
    for options in ({}, {"parameters": 0.9}, {"units": 0.8, "criterion": "random"}):
        grown = Regrow(**options)(small).network
        for before, after in zip(outputs(small, call.args, call.kwargs), outputs(grown, call.args, call.kwargs), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)
        if "parameters" in options and grown is not small:
            assert small.parameter_count < grown.parameter_count <= 0.9 * dense.parameter_count
    assert_same_state(Regrow(init="journal")(small).network.module, dense.module)


def test_what_a_norm_looks_at_is_left_alone_unless_it_is_named() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    dense = fxsparse.trace(module.eval(), torch.randn(2, 4))
    small = dense.shrink({"0": [0, 1, 2, 3], "2": [0, 5]})
    result = Regrow()(small)
    assert len(result.network.living["0"]) == 4 and len(result.network.living["2"]) == 6
    assert result.notes[-1].startswith("left alone, normalised over their units") and result.notes[-1].endswith(": 0")
    alone = Regrow(only=("0",))(small)
    assert not alone.modified and alone.notes[0] == "nothing was grown: no group can"
    with pytest.raises(PlanError, match="group '0' is normalised over its units"):
        Regrow(counts={"0": 1})(small)
    assert Regrow(init="journal")(small).network.living == dense.living
    assert Regrow(counts={"0": 1}, init="fresh")(small).network.living["0"][:4] == (0, 1, 2, 3)


def test_the_best_return_first() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    dense = fxsparse.trace(module.eval(), torch.randn(2, 4))
    small = dense.shrink({"0": [0]})
    scores = {"0": [9.0, 1.0, 5.0, 2.0, 4.0, 3.0]}
    assert Regrow(counts={"0": 2}, criterion=scores)(small).network.living["0"] == (0, 2, 4)
    assert Regrow(units=4, criterion=scores)(small).network.living["0"] == (0, 2, 4, 5)


def test_grows_where_the_code_makes_tensors_of_its_own() -> None:
    """The check of what may be silent runs in float64; a state that the code makes in float32 comes along."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.up, self.down = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 10), nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros(1, x.shape[0], 8), torch.zeros(1, x.shape[0], 8)
            out: Tensor = self.down(torch.relu(self.up(self.cell(x, state)[0][:, -1])))
            return out

    network = fxsparse.trace(Made().eval(), torch.randn(2, 5, 6))
    small = network.shrink({"up": [0, 2, 5], "cell": [0, 3, 4]})
    x = torch.randn(3, 4, 6)
    grown = Regrow()(small)
    assert grown.network.living == network.living
    torch.testing.assert_close(grown.network(x), small(x))
