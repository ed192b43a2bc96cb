"""Squeeze-and-excite, and blocks that split their channels."""

# mypy: disable-error-code="no-any-return"
# What a submodule returns is Any to a type checker.

from __future__ import annotations

import torch
from torch import Tensor, nn


class Excite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(self.act(self.reduce(self.pool(x)))))


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: one half passes, the other is convolved, and a view-based shuffle mixes them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        x = torch.cat((kept, self.branch(changed)), dim=1)
        b, c, h, w = x.size()
        x = x.view(b, 2, c // 2, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(b, -1, h, w)


class CrossStage(nn.Module):
    """C2f: a split, a chain of bottlenecks, and a concatenation of everything on the way."""

    def __init__(self, channels: int, out: int, depth: int) -> None:
        super().__init__()
        self.hidden = out // 2
        self.enter = nn.Conv2d(channels, 2 * self.hidden, 1)
        self.leave = nn.Conv2d((2 + depth) * self.hidden, out, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(self.hidden, self.hidden, 3, padding=1), nn.SiLU()) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).split((self.hidden, self.hidden), 1))
        parts.extend(parts[-1] + block(parts[-1]) for block in self.blocks)
        return self.leave(torch.cat(parts, 1))


class PartialConv(nn.Module):
    """FasterNet: the first channels are convolved, the others pass."""

    def __init__(self, channels: int, convolved: int) -> None:
        super().__init__()
        self.convolved = convolved
        self.conv = nn.Conv2d(convolved, convolved, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, others = torch.split(x, [self.convolved, x.shape[1] - self.convolved], dim=1)
        return torch.cat([self.conv(first), others], dim=1)


class PartialConvInPlace(nn.Module):
    """The same by assignment to a slice."""

    def __init__(self, channels: int, convolved: int) -> None:
        super().__init__()
        self.convolved = convolved
        self.conv = nn.Conv2d(convolved, convolved, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, : self.convolved] = self.conv(x[:, : self.convolved])
        return y
