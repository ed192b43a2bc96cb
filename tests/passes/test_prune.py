"""Pruning to budgets, and growing back: what is reached, what stays, and what is said when it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxsparse
from fxsparse.errors import BudgetError, Error, PassError
from fxsparse.models import build
from fxsparse.network import Network
from fxsparse.passes.equality import difference
from fxsparse.passes.prune import Prune
from fxsparse.passes.regrow import Regrow
from tests.networks.random_networks import RandomNetwork, networks


def resnet() -> Network:
    return fxsparse.trace(build("fxsparse:resnet20").model, torch.randn(2, 3, 16, 16))


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 16, 16, generator=generator), torch.randint(10, (4,), generator=generator)) for _ in range(count)]


CRITERIA = ["magnitude", "l1", "l2", "lamp", "fpgm", "bn-scale", "random", "taylor", "bn-taylor"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("budget", ["macs", "parameters"])
def test_budgets_are_reached_to_one_percent(criterion: str, budget: str) -> None:
    network = resnet()
    result = Prune(**{budget: 0.5, "criterion": criterion})(network, data=batches())  # type: ignore[arg-type]
    count = {"macs": (network.macs, result.network.macs), "parameters": (network.parameter_count, result.network.parameter_count)}[budget]
    assert count[1] <= 0.5 * count[0]
    assert count[1] >= 0.495 * count[0] or "of the budget is not used" in result.notes[1]
    assert fxsparse.verify(network, result.network).max_error < 1e-9


@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize("options", [{"units": 0.6}, {"memory": 0.8}, {"macs": "1M"}, {"macs": 0.4, "steps": 3}], ids=str)
def test_scopes_and_other_budgets(scope: Any, options: dict[str, Any]) -> None:
    network = resnet()
    result = Prune(scope=scope, **options)(network)
    assert result.modified
    assert "asked for" in result.notes[0]
    fxsparse.verify(network, result.network)


def test_a_local_scope_treats_groups_alike() -> None:
    small = Prune(units=0.5, scope="local")(resnet()).network
    dense = resnet().living
    shares = [len(units) / len(dense[name]) for name, units in small.living.items() if len(units) != len(dense[name])]
    assert max(shares) - min(shares) < 0.1


def test_alignment_minimum_and_names() -> None:
    network = resnet()
    small = Prune(macs=0.5, align=4, min_units=8, protect=("layer1*",))(network).network
    for name, units in small.living.items():
        if len(units) != len(network.living[name]):
            assert len(units) % 4 == 0 and len(units) >= 8 and not name.startswith("layer1")
    only = Prune(macs=0.9, only=("layer3.*",))(network).network
    assert {n for n, units in only.living.items() if len(units) != len(network.living[n])} <= {
        n for n in only.living if n.startswith("layer3")
    }


def test_the_best_units_stay() -> None:
    network = resnet()
    values = {g.name: np.arange(len(g.units))[::-1].copy() + 1.0 for g in network.groups if g.prunable}
    small = Prune(units=0.5, criterion=values)(network).network
    changed = [(name, units) for name, units in small.living.items() if len(units) != len(network.living[name])]
    assert changed and all(units == tuple(range(len(units))) for _, units in changed)


def test_a_callable_and_a_unit_that_costs_more_goes_first() -> None:
    network = resnet()

    def same(net: Network, groups: Any, data: Any) -> dict[str, Any]:
        return {name: torch.linspace(1, 1.001, len(net.living[name])) for name in groups}

    first = Prune(macs=0.95, criterion=same)(network).network
    cost = {g.name: g.cost.macs for g in network.groups if g.prunable}
    gone = {name for name, units in first.living.items() if len(units) != len(network.living[name])}
    assert max(cost, key=lambda name: cost[name]) in gone
    assert min(cost, key=lambda name: cost[name]) not in gone


def test_steps_let_others_work_in_between() -> None:
    seen: list[int] = []

    def between(net: Network) -> Network:
        seen.append(net.macs)
        return net

    small = Prune(macs=0.25, steps=3)(resnet(), between=between).network
    assert len(seen) == 2 and seen[0] > seen[1] > small.macs
    for wrong, said in ((lambda net: None, "it returned a NoneType"), (lambda net: resnet(), "it returned another network")):
        with pytest.raises(PassError, match=said):
            Prune(macs=0.25, steps=3)(resnet(), between=wrong)


def test_an_engine_that_is_named_aligns_widths() -> None:
    assert (Prune(macs=0.5).multiple, Prune(macs=0.5, engine="tensorrt").multiple) == (1, 8)
    assert (Prune(macs=0.5, align="auto").multiple, Prune(macs=0.5, engine="inductor", align=2).multiple) == (8, 2)
    small = Prune(macs=0.6, engine="onnxruntime")(resnet()).network
    assert all(len(units) % 8 == 0 for name, units in small.living.items() if small.group(name).prunable)


def test_what_is_enough_already_is_left_alone() -> None:
    network = resnet()
    result = Prune(macs=10**12)(network)
    assert not result.modified and result.network is network


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({}, PassError, "takes one budget of units, parameters, macs, memory or latency, and got none"),
        ({"macs": 0.5, "units": 0.5}, PassError, "got units and macs"),
        ({"macs": 0.001}, BudgetError, "macs cannot go below"),
        ({"macs": 0.5, "protect": ("*",)}, PassError, "all groups are protected"),
        ({"macs": 0.5, "protect": ("layr1",)}, PassError, "the pattern 'layr1' names no group (did you mean"),
        ({"macs": 0.3, "only": ("layer1.0.conv1",)}, BudgetError, "layer1.0.conv1 may not become narrower"),
        ({"macs": 0.5, "criterion": "magnitud"}, PassError, "there is no criterion 'magnitud' (did you mean 'magnitude'"),
        ({"macs": 0.5, "criterion": "taylor"}, PassError, "taylor needs gradients; give batches"),
        ({"macs": 0.5, "criterion": 3}, PassError, "a criterion is a name, a table of scores or a callable, not a int"),
        ({"macs": 0.5, "align": 0}, PassError, "are at least 1"),
        ({"macs": 0.5, "engine": "tensort"}, PassError, "did you mean 'tensorrt'"),
        ({"macs": "many"}, BudgetError, "is no amount"),
        ({"macs": 0.5, "max_ratio": 0.0}, PassError, "max_ratio"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], kind: type[Error], said: str) -> None:
    with pytest.raises(kind) as caught:
        Prune(**options)(resnet())
    assert said in str(caught.value)


def test_criteria_that_give_nonsense() -> None:
    network = resnet()
    groups = [g for g in network.groups if g.prunable]
    fine = {g.name: np.ones(len(g.units)) for g in groups}
    bad = groups[2].name
    with pytest.raises(PassError, match=f"NaN for unit 1 of group '{bad}'"):
        Prune(macs=0.5, criterion={**fine, bad: np.array([1.0, np.nan, *fine[bad][2:]])})(network)
    with pytest.raises(PassError, match=f"3 scores for the .* living units of group '{bad}'"):
        Prune(macs=0.5, criterion={**fine, bad: np.ones(3)})(network)
    with pytest.raises(PassError, match=f"no scores for group '{bad}'"):
        Prune(macs=0.5, criterion={name: s for name, s in fine.items() if name != bad})(network)
    with pytest.raises(PassError, match=f"NaN for {len(fine[bad])} units of group '{bad}'"):
        Prune(macs=0.5, criterion={**fine, bad: fine[bad] * np.nan})(network)
    with pytest.raises(PassError, match=r"a criterion gives a table of scores, .* not a NoneType"):
        Prune(macs=0.5, criterion=lambda network, groups, data: None)(network)
    bare = fxsparse.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    with pytest.raises(PassError, match="bn-scale needs batch norms, and group '0' has none"):
        Prune(macs=0.5, criterion="bn-scale")(bare)


def test_growing_back_by_budget_counts_and_names() -> None:
    dense = resnet()
    small = Prune(macs=0.4)(dense).network
    x = torch.randn(2, 3, 16, 16)
    grown = Regrow(macs=0.6)(small)
    assert 0.59 <= grown.network.macs / dense.macs <= 0.6
    torch.testing.assert_close(grown.network.module.eval()(x), small.module.eval()(x))
    name = next(n for n, units in small.living.items() if len(units) + 1 < len(dense.living[n]))
    one = Regrow(counts={name: 2}, init="journal")(small).network
    assert len(one.living[name]) == len(small.living[name]) + 2
    back = Regrow(init="journal")(small).network
    assert back.living == dense.living
    torch.testing.assert_close(back.module.eval()(x), dense.module.eval()(x), rtol=0, atol=0)
    assert not Regrow()(dense).modified
    missing = sorted(set(dense.living[name]) - set(small.living[name]))
    assert Regrow(groups={name: (missing[0],)})(small).network.living[name] == tuple(sorted((*small.living[name], missing[0])))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"macs": 0.5, "counts": {"conv1": 1}}, "takes one of groups, counts or a budget"),
        ({"counts": {"cnov1": 1}}, "there is no group 'cnov1' (did you mean 'conv1'"),
        ({"counts": {"conv1": 10**6}}, "are missing"),
        ({"only": ("nothing*",)}, "names no group"),
    ],
)
def test_what_cannot_be_grown(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PassError) as caught:
        Regrow(**options)(Prune(macs=0.5)(resnet()).network)
    assert said in str(caught.value)


@settings(max_examples=15)
@given(networks(max_ops=10), st.integers(0, 100), st.sampled_from([0.8, 0.5]))
def test_random_networks_are_pruned_to_what_is_asked_or_say_why(network: RandomNetwork, seed: int, share: float) -> None:
    call = network.example_inputs(2, seed)
    dense = fxsparse.trace(network.build(seed).eval(), call.args, call.kwargs)
    try:
        result = Prune(parameters=share, seed=seed, criterion="random")(dense)
    except (BudgetError, PassError) as error:
        assert "cannot go below" in str(error) or "nothing to remove" in str(error)
        return
    small = result.network
    assert small.parameter_count <= share * dense.parameter_count
    fxsparse.verify(dense, small)
    whole = Regrow(init="journal")(small).network
    assert whole.living == dense.living
    assert all(torch.equal(tensor, dense.module.state_dict()[key]) for key, tensor in whole.module.state_dict().items())
    grown = Regrow(parameters=(1 + share) / 2, seed=seed)(small).network
    assert grown.parameter_count <= (1 + share) / 2 * dense.parameter_count
    assert difference(small, grown) < 1e-6, "zero keeps the function"
