"""Parts whose sizes depend on values stay Python: what the recorder made up for them may not decide what their graph does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxsparse


class Finder(nn.Module):
    """Looks at the rows that it finds, and does something else where it finds none."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.where(self.score(x)[:, 0] > 0)[0]
        return x[found] if found.numel() else self.other(x)


class Shell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.finder = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), Finder()

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        out: Tensor = self.finder(y) if bool(y.sum() > -1) else y
        return out


def test_a_part_that_finds_rows_is_no_island() -> None:
    model = Shell().eval()
    network = fxsparse.trace(model, torch.randn(5, 4))
    assert network.origin.islands == ("part",)
    for bias in (-100.0, 0.0, 100.0):
        with torch.no_grad():
            model.finder.score.bias.fill_(bias)
        x = torch.randn(5, 4)
        torch.testing.assert_close(network(x), model(x))
    assert type(network.module.get_submodule("finder")) is Finder
