"""Removal leaves the logits as they are, to the bit, and nothing behind."""

from __future__ import annotations

import pytest
import torch

import fxsparse
from fxsparse import PassError
from fxsparse.models import cifar_resnet
from fxsparse.passes import Pipeline
from fxsparse.passes.insert_dyrelu import InsertDyrelu
from fxsparse.passes.phase_dyrelu import PhaseDyrelu, set_beta
from fxsparse.passes.remove_dyrelu import RemoveDyrelu


def test_bit_identical_and_nothing_left() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(cifar_resnet.resnet20().eval(), torch.randn(1, 3, 16, 16))
    made = InsertDyrelu()(network).network
    optimizer = torch.optim.SGD(made.module.train().parameters(), 0.1)
    made(torch.randn(4, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    set_beta(made.module.eval(), 0.0)
    result = RemoveDyrelu()(made)
    x = torch.randn(5, 3, 16, 16)
    assert torch.equal(result.network(x), made(x))
    assert result.notes == ("19 DyReLUs became ReLUs",)
    assert list(result.network.module.state_dict()) == list(network.module.state_dict())
    assert result.network.macs == network.macs and result.network.parameter_count == network.parameter_count
    assert torch.equal(result.network.as_original()(x), made(x))


def test_after_pruning() -> None:
    network = fxsparse.trace(cifar_resnet.resnet20().eval(), torch.randn(1, 3, 16, 16))
    made = PhaseDyrelu()(InsertDyrelu()(network).network).network
    small = made.shrink({group.name: group.units[::2] for group in made.groups if group.prunable})
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(RemoveDyrelu()(small).network(x), small(x))


def test_refuses_with_a_sentence() -> None:
    network = fxsparse.trace(cifar_resnet.resnet20().eval(), torch.randn(1, 3, 16, 16))
    with pytest.raises(PassError, match=r"beta of dyrelu\.bn1 is 1; set it to 0 first, with phase-dyrelu\{beta=0\.0\}"):
        RemoveDyrelu()(InsertDyrelu()(network).network)
    assert not RemoveDyrelu()(network).modified
    assert str(Pipeline.parse("phase-dyrelu,remove-dyrelu")) == "phase-dyrelu,remove-dyrelu"
