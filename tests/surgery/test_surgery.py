"""Shrinking and regrowing: values, optimizers, averaged copies, modes and types."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from tests import cases


def residual() -> tuple[fxsparse.Network, Tensor]:
    torch.manual_seed(3)
    x = torch.randn(2, 3, 8, 8)
    return fxsparse.trace(cases.Residual(), x), x


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def step(network: fxsparse.Network, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    network(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizer_and_average_follow_both_ways(name: str) -> None:
    network, x = residual()
    optimizer = OPTIMIZERS[name](network.module.parameters())
    average = torch.optim.swa_utils.AveragedModel(network.module)
    for _ in range(3):
        step(network, optimizer, x)
        average.update_parameters(network.module)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    averaged = copy.deepcopy(average.module.state_dict())
    keep = {"stem": [0, 2, 5], "a": [1, 4]}
    small = network.shrink(keep)
    fxsparse.carry(network, small, optimizer, average)
    named = dict(small.module.named_parameters())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in named.values()]
    for index, (key, parameter) in enumerate(named.items()):
        for what, value in optimizer.state[parameter].items():
            dense = state[index][what]
            if dense.dim():
                for axis, kept in small.kept[key].items():
                    dense = dense.index_select(axis, torch.tensor(kept))
            assert torch.equal(value, dense), (key, what)
    assert average.module(x).shape == network(x).shape
    back = small.regrow()
    fxsparse.carry(small, back, optimizer, average)
    again = optimizer.state_dict()["state"]
    assert all(torch.equal(again[i][what], state[i][what]) for i in state for what in state[i])
    assert all(torch.equal(a, b) for a, b in zip(average.module.state_dict().values(), averaged.values(), strict=True))
    step(back, optimizer, x)


def test_training_a_shrunk_network_survives_regrowth() -> None:
    network, x = residual()
    small = network.shrink({"stem": [0, 2, 5]})
    optimizer = torch.optim.SGD(small.module.parameters(), lr=0.1)
    step(small, optimizer, x)
    whole = small.regrow()
    again = whole.shrink({"stem": [0, 2, 5]})
    assert all(torch.equal(a, b) for a, b in zip(again.module.state_dict().values(), small.module.state_dict().values(), strict=True))
    stem = network.module.get_parameter("stem.weight")
    assert torch.equal(whole.module.get_parameter("stem.weight")[[1, 3, 4, 6, 7]], stem[[1, 3, 4, 6, 7]])


def test_partial_regrowth_and_unit_numbers() -> None:
    network, _ = residual()
    small = network.shrink({"stem": [0, 2, 5]})
    grown = small.regrow({"stem": [7]})
    assert small.group("stem").units == (0, 2, 5) and grown.group("stem").units == (0, 2, 5, 7)
    assert grown.kept["stem.weight"][0] == [0, 2, 5, 7]
    assert torch.equal(grown.module.get_parameter("stem.weight"), network.module.get_parameter("stem.weight")[[0, 2, 5, 7]])


def test_zero_growth_keeps_the_function_and_learns() -> None:
    network, x = residual()
    network.module.eval()
    small = network.shrink({"a": [1, 4], "stem": [0, 1, 2]})
    grown = small.regrow(init="zero")
    with torch.no_grad():
        torch.testing.assert_close(grown(x), small(x))
    grown(x).square().sum().backward()
    gradient = grown.module.get_parameter("b.weight").grad
    assert gradient is not None and bool((gradient[:, [0, 2, 3, 5]] != 0).any())


def test_fresh_growth_draws_new_values() -> None:
    network, _ = residual()
    grown = network.shrink({"a": [1, 4]}).regrow(init="fresh")
    new, old = grown.module.get_parameter("a.weight"), network.module.get_parameter("a.weight")
    assert torch.equal(new[[1, 4]], old[[1, 4]]) and not bool((new[[0, 2, 3, 5]] == old[[0, 2, 3, 5]]).any())
    assert bool((new != 0).all())


def test_zero_growth_under_a_norm_over_the_units_is_refused() -> None:
    network = fxsparse.trace(cases.PackedAttention(), torch.randn(2, 5, 12))
    small = network.shrink({"embed": range(6)})
    with pytest.raises(fxsparse.PlanError, match="normalised over its units"):
        small.regrow(init="zero")


def test_modes_types_and_devices_stay() -> None:
    model = cases.Residual().half()
    model.a.eval()
    model.b.weight.requires_grad_(False)
    small = fxsparse.trace(model, torch.randn(2, 3, 8, 8).half()).shrink({"a": [1, 4]})
    assert all(p.dtype == torch.float16 for p in small.module.parameters())
    assert small.module.training and not small.module.get_submodule("a").training
    assert not small.module.get_parameter("b.weight").requires_grad and small.module.get_parameter("a.weight").requires_grad
    on_meta = fxsparse.trace(cases.Residual().to("meta"), torch.randn(2, 3, 8, 8, device="meta")).shrink({"a": [1, 4]})
    assert all(p.is_meta for p in on_meta.module.parameters())


def test_a_spectral_norm_in_train_mode_stays_bit_for_bit(tmp_path: Path) -> None:
    """In train mode, whoever asks for its weight moves its vectors."""

    def normed() -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))

    model = normed()
    before = copy.deepcopy(model.state_dict())
    small = fxsparse.trace(model, torch.randn(3, 4)).shrink({"0": [0, 3, 4]})
    whole = small.regrow()
    fxsparse.save(small, tmp_path)
    again = fxsparse.load(tmp_path, normed())
    assert whole.module.training and again.module.training
    assert all(torch.equal(value, before[key]) for key, value in whole.module.state_dict().items())
    assert all(torch.equal(value, small.module.state_dict()[key]) for key, value in again.module.state_dict().items())


def test_as_original_is_the_users_class_or_says_why_not() -> None:
    network, x = residual()
    small = network.shrink({"stem": [0, 2, 5], "a": [1, 4]})
    model = small.as_original()
    assert type(model) is cases.Residual
    assert torch.equal(model(x), small(x))
    packed = fxsparse.trace(cases.PackedAttention(), torch.randn(2, 5, 12))
    with pytest.raises(fxsparse.PlanError, match=r"network\.module"):
        packed.shrink({"qkv/heads": [0, 2]}).as_original()


def test_permuting_the_units_of_a_group_leaves_the_function_alone() -> None:
    """Units of a group are interchangeable: their tensors permuted together, the network computes the same."""
    for case in cases.CASES:
        torch.manual_seed(0)
        model, inputs = case.build().double().eval(), tuple(x.double() if x.is_floating_point() else x for x in case.inputs())
        network = fxsparse.trace(model, inputs)
        if network.origin.islands != ("",):
            continue
        before = [t.clone() for t in torch.utils._pytree.tree_leaves(network(*inputs))]
        for group in network.groups:
            if not group.prunable or len(group.units) < 2:
                continue
            order = torch.randperm(len(group.units)).tolist()
            state = {key: tensor.clone() for key, tensor in network.tensors().items()}
            permuted = dict(state)
            for member in group.members:
                pairs = network.origin.structure.coordinates(member.tensor, member.axis, group.name)
                places: dict[int, list[int]] = {}
                for coordinate, unit in pairs:
                    places.setdefault(unit, []).append(coordinate)
                index = list(range(permuted[member.tensor].shape[member.axis]))
                for unit, source in enumerate(order):
                    for to, origin in zip(places[unit], places[source], strict=True):
                        index[to] = origin
                permuted[member.tensor] = permuted[member.tensor].index_select(member.axis, torch.tensor(index))
            with torch.no_grad():
                after = torch.func.functional_call(network.module, permuted, inputs, tie_weights=False)
            for a, b in zip(before, torch.utils._pytree.tree_leaves(after), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=f"{case.name}: {group.name}")


def test_carry_refuses_what_cannot_follow_and_changes_nothing() -> None:
    network, x = residual()
    small = network.shrink({"stem": [0, 2, 5]})
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(fxsparse.PlanError, match="holds no parameter of the network"):
        fxsparse.carry(network, small, stranger)
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.1)
    with pytest.raises(fxsparse.PlanError, match="no copy of the network"):
        fxsparse.carry(network, small, optimizer, nn.Linear(2, 2))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in network.module.parameters()]
    other, _ = residual()
    with pytest.raises(fxsparse.PlanError, match="one trace"):
        fxsparse.carry(network, other, optimizer)
    step(network, optimizer, x)
