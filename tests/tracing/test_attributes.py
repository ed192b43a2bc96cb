"""Tensors that are plain attributes of modules follow the channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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


MEAN = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
SCALE = torch.linspace(0.5, 1.5, 8)
STATE = torch.zeros(1)


class Elsewhere(nn.Module):
    """Reads tensors from beside its class, from lists, or from a table."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.make, self.back, self.where = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), where
        self.scales: Any = [torch.linspace(1, 2, 8), (torch.linspace(2, 3, 8), "no tensor")]
        self.table = {"scale": torch.linspace(1, 2, 8)}

    def forward(self, x: Tensor) -> Tensor:
        global STATE
        if self.where == "input":
            x = x - MEAN.to(x.device)
        y = self.make(x).relu()
        if self.where == "beside":
            y = y * SCALE.view(1, -1, 1, 1)
        if self.where == "list":
            y = y * self.scales[0].view(-1, 1, 1)
        if self.where == "tuple":
            y = y * self.scales[1][0][:, None, None]
        if self.where == "table":
            y = y * self.table["scale"][:, None, None]
        if self.where == "state":
            y, STATE = y + STATE, y.mean().reshape(1)
        result: Tensor = self.back(y).mean((2, 3))
        return result


@pytest.mark.parametrize("where", ["input", "beside", "list", "tuple"])
def test_tensors_from_elsewhere_follow_the_channels(where: str, tmp_path: Path) -> None:
    model, x = Elsewhere(where).eval(), torch.randn(2, 3, 6, 6)
    network = fxsparse.trace(model, x, check=True)
    assert network.origin.islands == ("",) and network.group("make").prunable
    assert set(network.module.state_dict()) == set(model.state_dict()) and not [name for name, _ in model.named_buffers()]
    assert not any(group.name.startswith("_kept") for group in network.groups if group.prunable)
    small = network.shrink({"make": [0, 2, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-9
    assert torch.equal(small.regrow()(x), network(x))
    torch.testing.assert_close(network(x[:, :, :5]), model(x[:, :, :5]))
    fxsparse.save(small, tmp_path)
    assert torch.equal(fxsparse.load(tmp_path, Elsewhere(where).eval())(x), small(x))
    if where == "input":
        assert torch.equal(small.as_original()(x), small(x))
    else:
        with pytest.raises(fxsparse.PlanError, match="source"):
            small.as_original()
    assert SCALE.shape == (8,) and not SCALE.is_meta


@pytest.mark.parametrize("where", ["table", "state"])
def test_what_may_be_another_one_next_time_stays_in_python(where: str) -> None:
    global STATE
    STATE = torch.zeros(1)
    assert fxsparse.trace(Elsewhere(where).eval(), torch.randn(2, 3, 6, 6)).origin.islands != ("",)
    STATE = torch.zeros(1)


class Declared(nn.Module):
    """Attributes that the class declares; an instance puts a tensor in the place of one of them."""

    shift: Tensor | None = None
    scale = torch.linspace(1, 2, 6)

    def __init__(self, *, shifted: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        if shifted:
            self.shift = torch.linspace(-1, 1, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.shift is not None:
            y = y + self.shift
        out: Tensor = self.b(y * self.scale)
        return out


def test_a_tensor_of_the_class_follows_the_channels() -> None:
    model, x = Declared(), torch.randn(2, 4)
    network = fxsparse.trace(model, x, check=True)
    assert network.origin.islands == ("",)
    small = network.shrink({"a": [0, 2, 5]})
    assert fxsparse.verify(network, small).effect > 0
    assert len(model.scale) == 6 and "scale" not in vars(model)


def test_a_tensor_in_the_place_of_what_the_class_declares_is_read() -> None:
    model, x = Declared(shifted=True), torch.randn(2, 4)
    network = fxsparse.trace(model, x, check=True)
    torch.testing.assert_close(network(x), model(x))
    assert [group.reason for group in network.groups if group.name == "a"] == ["a constant of the forward pass"]


class Doubled(nn.Module):
    """A buffer of a part that stands in two more places, which forward does not ask."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.known, self.several = self.part.running_mean, [self.part.running_var]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.part(x.repeat(1, 1)))
        return result


def test_a_buffer_that_stands_elsewhere_too_is_the_same_there() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(nn.Sequential(nn.Linear(4, 6), Doubled()).eval(), torch.randn(3, 4))
    small = network.shrink({"0": [0, 2, 3]})
    doubled = small.module.get_submodule("1")
    assert isinstance(doubled, Doubled)
    assert doubled.known is doubled.part.running_mean
    assert doubled.several[0] is doubled.part.running_var
    assert fxsparse.verify(network, small).max_error < 1e-9
