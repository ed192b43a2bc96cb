"""A bias of zeros where there was none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fxsparse
from fxsparse import PassError
from fxsparse.passes import Pipeline
from fxsparse.passes.add_bias import AddBias
from fxsparse.passes.equality import difference
from tests.networks.randomise import randomise


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.Flatten(), nn.Linear(150, 5, bias=False),
        nn.Linear(5, 2),
    )  # fmt: skip


def test_adds_zeros_and_changes_nothing(tmp_path: Path) -> None:
    network = fxsparse.trace(randomise(model().double()), torch.randn(2, 3, 4, 4, dtype=torch.float64))
    result = AddBias(modules=("0", "1", "3"))(network)
    assert difference(network, result.network) == 0.0
    state = result.network.module.state_dict()
    assert set(state) - set(network.module.state_dict()) == {"0.bias", "1.bias", "3.bias"}
    assert [state[f"{i}.bias"].tolist() for i in (0, 1, 3)] == [[0.0] * 4, [0.0] * 6, [0.0] * 5]
    assert result.notes == ("3 layers have got a bias: 0, 1, 3",)
    small = result.network.shrink({group.name: group.units[1::2] for group in result.network.groups if group.prunable})
    assert small.module.get_parameter("3.bias").shape == (2,)
    assert fxsparse.verify(result.network, small).max_error < 1e-12
    fxsparse.save(small, tmp_path / "out")
    assert fxsparse.load(tmp_path / "out", model().double().eval()).edits == ('add-bias{modules=["0","1","3"]}',)


def test_refuses_with_a_sentence() -> None:
    network = fxsparse.trace(model(), torch.randn(2, 3, 4, 4))
    with pytest.raises(PassError, match="4 has a bias already"):
        AddBias(modules=("4",))(network)
    with pytest.raises(PassError, match="no convolution or linear layer '2'"):
        AddBias(modules=("2",))(network)
    assert not AddBias()(network).modified


def test_text() -> None:
    assert str(Pipeline.parse("add-bias{modules=[layer1.0.conv1]}")) == "add-bias{modules=[layer1.0.conv1]}"


def test_a_function_with_the_modules_weight_reads_the_bias() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(nn.functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias, stride=2)

    network = fxsparse.trace(nn.Sequential(Padded(3, 4, 3, bias=False)), torch.randn(1, 3, 6, 6))
    made = AddBias(("0",))(network).network
    with torch.no_grad():
        made.module.get_parameter("0.bias").fill_(2.0)
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(made(x), network(x) + 2)
