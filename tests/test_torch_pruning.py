"""Torch-Pruning as an oracle, on networks where it is right: the same channels removed, the same network left."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

import fxsparse
from fxsparse.models import build

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

NETWORKS = ("fxsparse:resnet20", "torchvision:resnet18", "torchvision:vgg11", "torchvision:mobilenet_v2", "torchvision:densenet121")


@pytest.mark.parametrize("spec", NETWORKS)
def test_the_same_network_is_left(spec: str) -> None:
    peer = pytest.importorskip("torch_pruning")
    options: dict[str, Any] = {"shortcut": "B"} if spec == "fxsparse:resnet20" else {}
    loaded = build(spec, **options)
    network = fxsparse.trace(loaded.model, loaded.inputs)
    chance = random.Random(0)
    candidates = [
        group
        for group in network.groups
        if group.prunable
        and isinstance(loaded.model.get_submodule(group.name.partition("#")[0]), torch.nn.Conv2d)
        and "#" not in group.name
    ]
    compared = 0
    for group in chance.sample(candidates, min(3, len(candidates))):
        gone = sorted(chance.sample(group.units, 2))
        other = copy.deepcopy(loaded.model)
        graph = peer.DependencyGraph().build_dependency(other, loaded.inputs)
        removed = graph.get_pruning_group(other.get_submodule(group.name), peer.prune_conv_out_channels, idxs=gone)
        removed.prune()
        small = network.shrink({group.name: [u for u in group.units if u not in gone]})
        assert {k: tuple(t.shape) for k, t in other.state_dict().items()} == {
            k: tuple(t.shape) for k, t in small.module.state_dict().items()
        }
        with torch.no_grad():
            torch.testing.assert_close(small(*loaded.inputs), other(*loaded.inputs), rtol=1e-4, atol=1e-4)
        compared += 1
    assert compared == 3
