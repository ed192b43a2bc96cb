"""Between DyReLU and ReLU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxsparse
from fxsparse import PassError
from fxsparse.passes import Pipeline
from fxsparse.passes.insert_dyrelu import InsertDyrelu
from fxsparse.passes.phase_dyrelu import PhaseDyrelu, dyrelus, set_beta


def traced() -> fxsparse.Network:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.ReLU())
    return fxsparse.trace(model.eval(), torch.randn(2, 3, 8, 8))


def test_sets_the_buffers_of_another_network() -> None:
    network = InsertDyrelu()(traced()).network
    result = PhaseDyrelu(beta=0.25)(network)
    assert result.notes == ("beta of 2 DyReLUs is 0.25",)
    assert [float(each.beta) for _, each in dyrelus(result.network.module)] == [0.25, 0.25]
    assert [float(each.beta) for _, each in dyrelus(network.module)] == [1.0, 1.0]
    assert not PhaseDyrelu(beta=0.25)(result.network).modified


def test_half_way_the_coefficients_are_half_way() -> None:
    network = InsertDyrelu()(traced()).network
    _, each = next(dyrelus(network.module))
    x = torch.randn(2, 8, 6, 6)
    assert set_beta(network.module, 0.5) == 2
    theta = 2 * torch.sigmoid(each.fc2(torch.relu(each.fc1(x.mean((2, 3)))))) - 1
    a1, a2, b1, b2 = (0.5 * theta).view(2, 4, 8, 1, 1).unbind(1)
    torch.testing.assert_close(each(x), torch.maximum((1 + a1) * x + b1 / 2, a2 * x + b2 / 2))


def test_refuses_with_a_sentence() -> None:
    with pytest.raises(PassError, match="the network has no DyReLU; insert some with insert-dyrelu"):
        PhaseDyrelu()(traced())
    with pytest.raises(PassError, match=r"beta is between 0 and 1, not 1\.5"):
        PhaseDyrelu(beta=1.5)(InsertDyrelu()(traced()).network)
    assert str(Pipeline.parse("phase-dyrelu{beta=0.5}")) == "phase-dyrelu{beta=0.5}"
