"""Criteria against numbers worked out by hand, and against Torch-Pruning's own."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.criteria import FPGM, BatchNormScale, BatchNormTaylor, Data, Magnitude, Random, Taylor
from fxsparse.criteria.base import as_criterion, scored
from fxsparse.criteria.units import relative
from fxsparse.errors import PassError
from fxsparse.models import build
from fxsparse.network import Network


class Net(nn.Module):
    """A stream that two layers make, and a layer inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.c = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.n(self.a(x)))
        out: Tensor = self.head((x + self.c(torch.relu(self.b(x)))).mean((2, 3)))
        return out


def network() -> Network:
    torch.manual_seed(0)
    module = Net()
    nn.init.normal_(module.n.weight)
    return fxsparse.trace(module.eval(), torch.randn(2, 2, 5, 5))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 2, 5, 5, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(3)]


def test_truth_values_count_as_numbers() -> None:
    class Chosen(nn.Module):
        chosen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("chosen", torch.ones(4, 3).tril() > 0)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(F.linear(x, self.chosen.to(x.dtype)))
            return result

    network = fxsparse.trace(Chosen(), torch.randn(2, 3))
    scores = Magnitude(normalise="none")(network, ["chosen"], Data())["chosen"]
    assert np.allclose(scores, np.array([1, 2, 3, 3]) / 2.25)


def test_magnitude_adds_up_all_that_makes_a_unit() -> None:
    net = network()
    module: Any = net.module
    found = Magnitude(normalise="none")(net, ["a", "b"], Data())
    a, c, b = (layer.weight.detach().double().pow(2).flatten(1).sum(1) for layer in (module.a, module.c, module.b))
    np.testing.assert_allclose(found["a"], a / a.mean() + c / c.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["b"], b / b.mean(), rtol=1e-6)


def test_scores_are_those_of_the_living_units() -> None:
    net = network()
    small = net.shrink({"a": [1, 4, 5]})
    whole, left = (Magnitude(normalise="none")(each, ["a"], Data())["a"] for each in (net, small))
    module: Any = small.module
    a, c = (layer.weight.detach().double().pow(2).flatten(1).sum(1) for layer in (module.a, module.c))
    assert len(left) == 3 and len(whole) == 6
    np.testing.assert_allclose(left, a / a.mean() + c / c.mean(), rtol=1e-6)


def test_relative_scores_are_parts_of_what_is_left() -> None:
    np.testing.assert_allclose(relative(np.array([1.0, 3.0, 4.0])), [1 / 8, 3 / 7, 1.0])
    np.testing.assert_allclose(relative(np.array([4.0, 1.0]), weight=2), [2.0, 2 / 5])


def test_taylor_is_the_mean_of_squared_sums_of_weight_times_gradient() -> None:
    net = network()
    module: Any = net.module
    wanted = torch.zeros(5, dtype=torch.float64)
    for x, y in batches():
        module.zero_grad()
        F.cross_entropy(module(x), y).backward()
        wanted += (module.b.weight * module.b.weight.grad).detach().double().flatten(1).sum(1) ** 2 / 3
    module.zero_grad()
    np.testing.assert_allclose(Taylor()(net, ["b"], Data(batches()))["b"], wanted, rtol=1e-4)
    assert all(p.grad is None for p in module.parameters())  # nothing is left behind


def test_batch_norm_criteria() -> None:
    net = network()
    module: Any = net.module
    np.testing.assert_allclose(BatchNormScale()(net, ["a"], Data())["a"], module.n.weight.detach().abs(), rtol=1e-6)
    wanted = torch.zeros(6, dtype=torch.float64)
    for x, y in batches():
        module.zero_grad()
        F.cross_entropy(module(x), y).backward()
        wanted += (module.n.weight * module.n.weight.grad + module.n.bias * module.n.bias.grad).detach().double().abs() / 3
    np.testing.assert_allclose(BatchNormTaylor()(net, ["a"], Data(batches()))["a"], wanted, rtol=1e-4)
    with pytest.raises(PassError, match="needs batch norms, and group 'b' has none"):
        BatchNormScale()(net, ["b"], Data())


def test_fpgm_is_the_sum_of_distances() -> None:
    net = network()
    rows = net.module.get_parameter("b.weight").detach().flatten(1)
    wanted = (rows[:, None] - rows[None]).norm(dim=2).sum(1)
    np.testing.assert_allclose(FPGM(normalise="none")(net, ["b"], Data())["b"], wanted, rtol=1e-4)


def test_random_scores_are_repeatable_and_belong_to_units() -> None:
    net = network()
    first, again, other = (Random(seed)(net, ["b"], Data())["b"] for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("batch", "said"),
    [([torch.zeros(1, 2, 5, 5)], "a batch is"), ([], "holds no batch"), ([(torch.zeros(1, 2, 5, 5), "cat")], "need a loss of their own")],
)
def test_data_that_gradients_cannot_be_taken_of(batch: Any, said: str) -> None:
    with pytest.raises(PassError, match=said):
        scored(Taylor(), network(), ["b"], Data(batch))


@pytest.mark.peers
@pytest.mark.skipif(importlib.util.find_spec("torch_pruning") is None, reason="Torch-Pruning is not installed")
@pytest.mark.parametrize("spec", ["torchvision:resnet18", "torchvision:vgg11_bn"])
def test_torch_pruning_s_importance_says_of_our_groups_what_it_says_of_its_own(spec: str) -> None:
    import torch_pruning as peer

    from fxsparse.criteria.torch_pruning import TorchPruning

    loaded = build(spec)
    net = fxsparse.trace(loaded.model, loaded.inputs)
    importance = peer.importance.MagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    convolutions = [name for name, m in loaded.model.named_modules() if isinstance(m, nn.Conv2d)]
    groups = [g.name for g in net.groups if g.prunable and g.kind == "channels" and g.name in convolutions]
    ours = TorchPruning(importance, normalise="none")(net, groups, Data())
    theirs = peer.DependencyGraph().build_dependency(loaded.model, loaded.inputs[0])
    compared = 0
    for name in groups:
        layer: Any = loaded.model.get_submodule(name)
        group = theirs.get_pruning_group(layer, peer.prune_conv_out_channels, list(range(layer.out_channels)))
        wanted = importance(group).double().numpy()
        if len(wanted) == len(ours[name]):
            np.testing.assert_allclose(ours[name], wanted, rtol=1e-4)
            compared += 1
    assert compared >= 5


def test_weights_that_are_not_there() -> None:
    with torch.device("meta"):
        model = Net()
    net = fxsparse.trace(model.eval(), torch.randn(2, 2, 5, 5))
    with pytest.raises(PassError, match=r"a\.weight has no values \(it is on the meta device\)"):
        scored(Magnitude(), net, ["a"], Data())
    assert len(scored(Random(), net, ["a"], Data())["a"]) == 6


def test_data_that_the_network_cannot_take() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(PassError, match=r"the network cannot take a batch of shape \(2, 3, 5, 5\)"):
        scored(Taylor(), network(), ["b"], Data([(torch.randn(2, 3, 5, 5), labels)]))
    with pytest.raises(PassError, match=r"no cross-entropy of outputs \(2, 3\) and targets \(2,\): Target 6 is out of bounds"):
        scored(Taylor(), network(), ["b"], Data([(torch.randn(2, 2, 5, 5), labels + 6)]))


@pytest.mark.peers
def test_torch_pruning_s_objects_that_need_gradients() -> None:
    peer = pytest.importorskip("torch_pruning")
    taylor = peer.importance.GroupTaylorImportance()
    with pytest.raises(PassError, match=r"GroupTaylorImportance failed on group 'b': .*; where it reads gradients, give data=loader"):
        scored(as_criterion(taylor), network(), ["b"], Data())
    assert len(scored(as_criterion(taylor), network(), ["b"], Data(batches()))["b"]) == 5
