"""`int(size / 4)`, `float(size)`, `len(x)`: Python makes plain numbers of sizes, and the graph follows the input all the same. So do `min`
and `max`."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Windows(nn.Module):
    """Cuts an image into windows and puts them together again, as many attention networks do."""

    def __init__(self, side: int = 2) -> None:
        super().__init__()
        self.side, self.first, self.last = side, nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        cut = x.view(batch, height // self.side, self.side, width // self.side, self.side, channels)
        windows = self.first(cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.side, self.side, channels)).relu()
        out: Tensor = self.last(self.together(windows, height, width))
        return out

    def together(self, windows: Tensor, height: int, width: int) -> Tensor:
        batch = int(windows.shape[0] / (height * width / self.side / self.side))
        x = windows.view(batch, height // self.side, width // self.side, self.side, self.side, -1)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)


def test_a_batch_that_is_counted_from_windows_is_followed() -> None:
    model = Windows().eval()
    network = fxsparse.trace(model, torch.randn(1, 4, 4, 3), check=True)
    small = network.shrink({"first": [0, 1, 5]})
    for shape in ((1, 4, 4, 3), (3, 4, 4, 3), (2, 6, 4, 3)):
        x = torch.randn(shape)
        assert torch.equal(network(x), model(x))
        assert fxsparse.verify(network, small, inputs=x).max_error <= 1e-9
    assert "int" not in vars(sys.modules[__name__])


class Halved(nn.Module):
    """Half the image, by `map`; `int` is asked for what only the real one can say as well."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = map(int, (x.shape[2] * 0.5, x.shape[3] / 2))
        x = nn.functional.interpolate(self.first(x), size=(height, width))
        if self.kind == "a class":
            assert isinstance(height, int) and isinstance(3, (str, int)) and issubclass(bool, int) and int.from_bytes(b"\1", "big") == 1
            assert type(len(self.kind)) == int and int("3") == 3  # noqa: E721
        elif self.kind == "the class itself" and type(self.first.out_channels) is int:
            x = x.relu()
        out: Tensor = self.last(x)
        return out


@pytest.mark.parametrize("kind", ["a class", "the class itself"])
def test_what_asks_for_the_class_itself_is_traced_without(kind: str) -> None:
    model = Halved(kind).eval()
    network = fxsparse.trace(model, torch.randn(1, 3, 4, 6), check=True)
    small = network.shrink({"first": [0, 1, 5]})
    assert network.origin.islands == ("",) and fxsparse.verify(network, small).effect > 0
    x = torch.randn(1, 3, 8, 6)
    if kind == "a class":
        assert torch.equal(network(x), model(x)) and small(x).shape == (1, 2, 4, 3)
    else:
        with pytest.raises(fxsparse.TraceError, match=r"int\(\) at .* gives 4 with this input, and gave 2"):
            small(x)


class Mean(nn.Module):
    """A mean over the batch, by its length; the best of the sequence, as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.last(self.first(x).relu())
        most = y.amax(-1).topk(min(7, x.shape[1]), dim=1).values
        return y.sum(0) / len(x), most[:, : max([1, x.shape[1] - 3])]


@pytest.mark.parametrize("shape", [(2, 5, 3), (4, 5, 3), (3, 9, 3), (1, 2, 3)])
def test_a_length_and_the_least_of_two_sizes_are_followed(shape: tuple[int, ...]) -> None:
    model, x = Mean().eval(), torch.randn(shape)
    network = fxsparse.trace(model, torch.randn(2, 5, 3), check=True)
    assert network.origin.islands == ("",)
    for mine, theirs in zip(network(x), model(x), strict=True):
        assert torch.equal(mine, theirs)
    assert fxsparse.verify(network, network.shrink({"first": [0, 1, 5]}), inputs=x).max_error <= 1e-9


class Padded(nn.Module):
    """Brings an image to a multiple of four and back, and says by how much."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        wanted = [math.ceil(float(each) / 4) * 4 for each in size]
        y = self.last(nn.functional.interpolate(self.first(x), size=wanted).relu())
        out: Tensor = nn.functional.interpolate(y, size=size) * (float(size[0]) / wanted[0])
        return out


@pytest.mark.parametrize("size", [(5, 6), (8, 8), (9, 3)])
def test_a_float_of_a_size_is_followed(size: tuple[int, int]) -> None:
    model, x = Padded().eval(), torch.randn(2, 3, *size)
    network = fxsparse.trace(model, torch.randn(1, 3, 6, 7), check=True)
    torch.testing.assert_close(network(x), model(x))
    assert fxsparse.verify(network, network.shrink({"first": [0, 1, 5]}), inputs=x).max_error <= 1e-9


class Square(nn.Module):
    """Tokens as a square image; a scale by the width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        side = round(math.sqrt(y.shape[1]))
        image = (y / math.sqrt(y.shape[2])).transpose(1, 2).unflatten(2, (side, -1)).amax(2)
        out: Tensor = self.last(image.transpose(1, 2))
        return out


def test_a_root_of_a_size_is_followed() -> None:
    model = Square().eval()
    network = fxsparse.trace(model, torch.randn(2, 16, 3), check=True)
    small = network.shrink({"first": [0, 1, 5]})
    for length in (16, 36):
        x = torch.randn(3, length, 3)
        torch.testing.assert_close(network(x), model(x))
        assert fxsparse.verify(network, small, inputs=x).max_error <= 1e-9
