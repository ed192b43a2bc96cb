"""Copies of what was shared, times their scales."""

from __future__ import annotations

import torch

import fxsparse
from fxsparse.passes import Pipeline
from fxsparse.passes.equality import difference
from fxsparse.passes.share_weights import ShareWeights
from fxsparse.passes.unshare_weights import UnshareWeights
from tests.passes.test_share_weights import Net, traced


def test_same_function_and_names() -> None:
    network = traced(Net(bias=True))
    shared = ShareWeights()(network).network
    result = UnshareWeights()(shared)
    assert result.notes == ("4 convolutions have a weight of their own again",)
    assert difference(shared, result.network) < 1e-12
    assert list(result.network.module.state_dict()) == list(network.module.state_dict())
    assert result.network.parameter_count == network.parameter_count
    scale = shared.module.get_parameter("stage.3.conv1.scale")
    expected = shared.module.get_parameter("stage.1.conv1.weight") * scale
    assert torch.equal(result.network.module.get_parameter("stage.3.conv1.weight"), expected)


def test_masks_are_copied_and_pruning_stays() -> None:
    network = Pipeline.parse("share-weights,mask{sparsity=0.5}")(traced(Net())).network
    small = network.shrink({group.name: group.units[::2] for group in network.groups if group.prunable})
    own = UnshareWeights()(small).network
    assert difference(small, own) < 1e-12
    assert torch.equal(own.masks["stage.3.conv1.weight"], small.masks["stage.1.conv1.weight"])
    assert fxsparse.verify(own.regrow(), own).max_error < 1e-12
    whole = own.regrow()
    assert torch.equal(whole.masks["stage.3.conv1.weight"], network.masks["stage.1.conv1.weight"])
    assert not whole.module.get_parameter("stage.3.conv1.weight")[~whole.masks["stage.3.conv1.weight"]].any()


def test_nothing_to_do() -> None:
    assert not UnshareWeights()(traced(Net())).modified
    assert str(Pipeline.parse("share-weights,unshare-weights")) == "share-weights,unshare-weights"
