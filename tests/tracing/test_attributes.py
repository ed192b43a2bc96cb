"""Tensors that are plain attributes of modules follow the channels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import fxsparse


class Positions(nn.Module):
    """A table that the user did not register."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = torch.linspace(-1, 1, 10 * width).view(1, 10, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x + self.table[:, : x.shape[1]])
        return y


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.positions, self.mix, self.head = nn.Linear(5, 8), Positions(8), nn.Conv1d(8, 6, 1), nn.Linear(6, 3)
        self.shared = self.positions.table  # the same tensor under another name
        self.kernel = torch.ones(6, 1, 3) / 3  # a blur, one filter a channel
        self.last: Tensor = torch.zeros(3)  # nobody reads it

    def forward(self, x: Tensor) -> Tensor:
        y = self.positions(self.stem(x)) + 0.1 * self.shared[:, : x.shape[1]]
        z = nn.functional.conv1d(self.mix(y.transpose(1, 2)), self.kernel, padding=1, groups=6)
        out: Tensor = self.head(z.transpose(1, 2))
        return out


X = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))


def smaller(network: fxsparse.Network) -> fxsparse.Network:
    return network.shrink({"stem": [0, 1, 4, 6, 7], "mix": [1, 2, 5]})


def test_a_table_and_a_kernel_lose_their_channels() -> None:
    model = Model().eval()
    network = fxsparse.trace(model, X, check=True)
    assert network.notes == ()
    torch.testing.assert_close(network.module(X), model(X))
    small = smaller(network)
    fxsparse.verify(network, small)
    positions = small.module.get_submodule("positions")
    assert (
        positions.table.shape == (1, 10, 5)
        and small.module.shared is positions.table
        and small.module.get_buffer("kernel").shape == (3, 1, 3)
    )
    assert torch.equal(small.module.get_buffer("kernel"), model.kernel[:3])
    assert list(small.module.state_dict()) == list(model.state_dict())
    assert "table" in model.positions.__dict__ and model.kernel.shape == (6, 1, 3)  # the user's model is left alone


def test_they_come_back(tmp_path: Path) -> None:
    model = Model().eval()
    network = fxsparse.trace(model, X)
    back = smaller(network).regrow()
    assert torch.equal(back.module(X), network.module(X))
    small = smaller(network)
    fxsparse.save(small, tmp_path / "saved")
    again = fxsparse.load(tmp_path / "saved", Model().eval())
    torch.testing.assert_close(again.module(X), small.module(X))


def test_the_original_class_has_them_as_attributes() -> None:
    network = fxsparse.trace(Model().eval(), X)
    own = network.shrink({"stem": [0, 1, 4, 6, 7]}).as_original()
    assert own.positions.__dict__["table"].shape == (1, 10, 5) and "kernel" in own.__dict__
    torch.testing.assert_close(own(X), network.shrink({"stem": [0, 1, 4, 6, 7]}).module(X))
