"""Any two units of a group may change places; and the check sees it when they may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from tests.networks.complaints import COMPLAINTS, Complaint
from tests.networks.exchange import check_exchange, coordinates, counterparts, swapped
from tests.networks.random_networks import random_network

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


def test_a_unit_is_what_is_lost_without_it() -> None:
    network = fxsparse.trace(TwoLayers(), torch.randn(2, 3))
    assert coordinates(network, "first", 2) == {("first.weight", 0, 2), ("first.bias", 0, 2), ("second.weight", 1, 2)}


def test_half_a_swap_is_seen() -> None:
    module, x = TwoLayers(), torch.randn(2, 3)
    pairs = counterparts(fxsparse.trace(module, x), "first", 0, 3)
    assert pairs is not None and len(pairs) == 3
    assert torch.allclose(swapped(module, pairs)(x), module(x))
    for left_out in range(3):
        assert not torch.allclose(swapped(module, pairs[:left_out] + pairs[left_out + 1 :])(x), module(x))


@pytest.mark.parametrize("complaint", COMPLAINTS, ids=lambda complaint: complaint.name)
def test_units_of_complaints_are_interchangeable(complaint: Complaint) -> None:
    assert check_exchange(complaint.build(), complaint.example_inputs(), seed=0, most=2)


def test_units_of_random_networks_are_interchangeable() -> None:
    tried = 0
    for seed in range(6):
        network = random_network(seed, max_ops=10)
        args, kwargs = network.example_inputs()
        tried += check_exchange(network.build(seed), args, seed, kwargs, most=3)
    assert tried > 8
