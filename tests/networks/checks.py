"""What must hold for every network, by public names alone."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import fxsparse
from tests.networks.plans import Plan, random_plan

POSSIBLE = ("would leave nothing", "as many hidden units as projected ones")  # what several groups together may lead to


def cuts(network: fxsparse.Network, rng: random.Random) -> tuple[Plan, fxsparse.Network]:
    """A plan that the network accepts, and what it makes: where groups together ask for what cannot be, the plan is thinned until they do
    not. Any other refusal is a failure. Some plans leave as little as one unit."""
    most = rng.choice((0.3, 0.6, 1.0))
    while True:
        plan = random_plan(network.groups, rng, most=most)
        try:
            small = network.shrink(plan)
        except fxsparse.PlanError as error:
            if not any(words in str(error) for words in POSSIBLE):
                raise
            most /= 2
            if most < 0.02:
                return {}, network.shrink({})
        else:
            return plan, small


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    """Bit for bit, dtypes and keys included."""
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    for key, tensor in a.items():
        assert tensor.dtype == b[key].dtype, key
        assert tensor.shape == b[key].shape, f"{key}: {tuple(tensor.shape)} and {tuple(b[key].shape)}"
        assert torch.equal(tensor, b[key]), f"{key} differs"


def kept(network: fxsparse.Network) -> dict[str, dict[int, list[int]]]:
    return {key: dict(axes) for key, axes in network.kept.items()}


def check_shrink(
    module: nn.Module, args: tuple[Any, ...], seed: int, kwargs: Mapping[str, Any] | None = None, trains: bool = True
) -> fxsparse.Proof:
    """Shrink by a random plan and hold the result against all promises; `module` is in eval mode and stays as it is. `trains` is False
    for a module whose own backward pass fails."""
    rng = random.Random(seed)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    network = fxsparse.trace(module, args, kwargs)
    assert list(network.module.state_dict()) == list(before)
    assert_same_outputs(module, network.module, args, kwargs)

    plan, small = cuts(network, rng)
    assert list(small.module.state_dict()) == list(before), "the keys of the state dict changed"
    assert_kept(small, before)
    proof = fxsparse.verify(network, small, seed=seed)
    assert proof.max_error <= 1e-9

    assert_same_state(small.regrow().module, module)
    assert_two_are_one(network, small, plan, rng)
    assert_round_trip(small, module)
    if samples_stay_apart(module, args, kwargs, tolerance=1e-5):  # statistics of a batch may differ by little
        assert samples_stay_apart(small.module, args, kwargs), "the shrunk network has the batch size of the example inputs written into it"
    if trains:
        assert_trains(small, args, kwargs)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items()), "the original model was changed"
    return proof


def assert_same_outputs(one: nn.Module, other: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> None:
    """The traced module computes what the model does."""
    with torch.no_grad():
        pairs = zip(tree_leaves(one(*args, **(kwargs or {}))), tree_leaves(other(*args, **(kwargs or {}))), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b)


def samples_stay_apart(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, tolerance: float = 1e-3) -> bool:
    """Whether two samples give the same results in a batch of three, in another order; what a wrong size would do is not small."""
    twin = copy.deepcopy(module).eval()

    def run(samples: list[int]) -> list[Tensor]:
        some = tree_map_only(Tensor, lambda t: t[samples], (args, dict(kwargs or {})))
        with torch.no_grad():
            return [leaf for leaf in tree_leaves(twin(*some[0], **some[1])) if isinstance(leaf, Tensor)]

    return all(
        len(three) == 3 and torch.allclose(three, two[[1, 0, 1]], rtol=tolerance, atol=tolerance * float(two.abs().max()))
        for two, three in zip(run([0, 1]), run([1, 0, 1]), strict=True)
    )


def assert_kept(small: fxsparse.Network, dense: Mapping[str, Tensor]) -> None:
    """`kept` says which values of the original each tensor still holds."""
    for key, tensor in small.module.state_dict().items():
        if key not in small.kept:
            assert torch.equal(tensor, dense[key]), f"{key} is not in kept, but differs"
            continue
        expected = dense[key]
        for axis, indices in small.kept[key].items():
            expected = expected.index_select(axis, torch.tensor(indices, dtype=torch.long))
        assert torch.equal(tensor, expected), f"{key} does not hold what kept says"


def assert_two_are_one(network: fxsparse.Network, small: fxsparse.Network, plan: Plan, rng: random.Random) -> None:
    """Shrinking in two steps gives what one step gives."""
    halfway = {
        group.name: sorted({*plan[group.name], *rng.sample(group.units, len(group.units) // 2)})
        for group in network.groups
        if group.name in plan
    }
    try:
        half = network.shrink(halfway)
    except fxsparse.PlanError as error:  # less was taken, and still it cannot be: as many hidden units as projected ones
        assert any(words in str(error) for words in POSSIBLE), error
        half = network
    twice = half.shrink(plan)
    assert_same_state(twice.module, small.module)
    assert kept(twice) == kept(small)
    assert {group.name: group.units for group in twice.groups} == {group.name: group.units for group in small.groups}
    assert_same_state(twice.regrow().module, network.module)


def assert_round_trip(small: fxsparse.Network, module: nn.Module) -> None:
    """What was saved is what is loaded; it regrows as far as the file allows."""
    with tempfile.TemporaryDirectory() as folder:
        fxsparse.save(small, folder)
        again = fxsparse.load(folder, module)
    assert_same_state(again.module, small.module)
    assert kept(again) == kept(small)


def assert_trains(small: fxsparse.Network, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> None:
    """One step of SGD in train mode, on a copy of nothing: the network is thrown away afterwards."""
    module = copy.deepcopy(small.module)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    values = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    outputs = [leaf for leaf in tree_leaves(module(*args, **(kwargs or {}))) if leaf.requires_grad]
    sum((leaf.square().mean() for leaf in outputs), torch.zeros(())).backward()
    optimizer.step()
    reached = [key for key, parameter in module.named_parameters() if parameter.grad is not None]
    assert any(not torch.equal(values[key], module.get_parameter(key)) for key in reached), "training changed no parameter"
