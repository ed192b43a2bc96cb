"""Small networks for what users of other pruning tools complained about; the numbers are issues of Torch-Pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Complaint:
    """`build()` makes the network, `example_inputs()` what it is called with."""

    name: str
    issue: str
    build: Callable[[], nn.Module]
    example_inputs: Callable[[], tuple[Any, ...]]


def _images(channels: int = 3, size: int = 8) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, channels, size, size),)


def _tokens(count: int = 6, width: int = 12) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, count, width),)


class FlattenLinear(nn.Module):
    """#14, #125, #300: (C, H, W) is flattened before a Linear; each channel owns H x W inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc(x.view(x.size(0), -1))  # type: ignore[no-any-return]


class ChannelsLastFlattenLinear(nn.Module):
    """#287, #340: NHWC is flattened before a Linear, so that a channel's inputs stand apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).permute(0, 2, 3, 1).flatten(1))  # type: ignore[no-any-return]


class ViewShuffle(nn.Module):
    """#349: ShuffleNet's channel shuffle by views with literal sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.head(F.relu(self.depthwise(x)).mean((2, 3)))  # type: ignore[no-any-return]


class PackedAttention(nn.Module):
    """#219, #258, #393: q, k and v come from one Linear and are cut out by a reshape."""

    def __init__(self, dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.embed = nn.Linear(dim, dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]


class ConcatenatedWithItself(nn.Module):
    """#146: cat([x, x])."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.second(torch.cat([x, x], dim=1))  # type: ignore[no-any-return]


class SplitAndSlice(nn.Module):
    """#415, #481: parts of unequal width, cut out by split and by slices."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 9, 1)
        self.a, self.b, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.first(x), [4, 5], dim=1)
        return self.head(self.a(left) + self.b(right[:, :3]) + self.c(right[:, 3:]))  # type: ignore[no-any-return]


class BroadcastGate(nn.Module):
    """#510: a (b, 1, h, w) map times 16 channels couples nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.gate = nn.Conv2d(16, 1, 1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(x * torch.sigmoid(self.gate(x)))  # type: ignore[no-any-return]


class CrossStage(nn.Module):
    """#147: YOLO's C2f, halves of one convolution and a list that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 4
        self.first = nn.Conv2d(3, 2 * self.c, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(self.c, self.c, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(4 * self.c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.last(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """#44, #404: LSTM and GRU."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 6)
        self.rnn = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)  # type: ignore[call-arg, arg-type]
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0][:, -1])  # type: ignore[no-any-return]


class PixelShuffle(nn.Module):
    """#98, #420: four channels become one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.shuffle(self.first(x))))  # type: ignore[no-any-return]


class SharedHead(nn.Module):
    """#211: a feature pyramid whose levels share one head."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.side = nn.ModuleList([nn.Conv2d(6, 5, 1), nn.Conv2d(8, 5, 1)])
        self.tower, self.classes = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        low = F.relu(self.low(x))
        high = F.relu(self.high(low))
        top = self.side[1](high)
        levels = [self.side[0](low) + F.interpolate(top, scale_factor=2.0), top]
        return [self.classes(F.relu(self.tower(level))) for level in levels]


class TiedEmbedding(nn.Module):
    """Tied weights, on which the dependency graph crashes: the table is the classifier, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.fc = nn.Linear(8, 8)
        self.decode = nn.Linear(8, 11, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.decode(x + F.gelu(self.fc(x)))  # type: ignore[no-any-return]


class Einsum(nn.Module):
    """#136, #178: with einsum nothing is pruned, and no word why."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum("bnc,co->bno", self.embed(x), self.weight).relu())  # type: ignore[no-any-return]


class RawParameter(nn.Module):
    """#80, #463: a raw parameter between layers, which no tool of modules sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x) * self.scale)  # type: ignore[no-any-return]


class GroupedConvolution(nn.Module):
    """#204, #417: groups of a convolution stay equal, whatever the budget asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 1)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.grouped(F.relu(self.first(x)))))  # type: ignore[no-any-return]


class MultiheadAttention(nn.Module):
    """#186, #347: heads are pruned as heads; torch's module insists on its own sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))  # type: ignore[no-any-return]


class ResidualStream(nn.Module):
    """#120, #140, #176: momentum follows, and all comes back; a stream that several blocks write to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8)) for _ in range(2)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


COMPLAINTS: tuple[Complaint, ...] = (
    Complaint("flatten, then Linear", "#14 #125 #300", FlattenLinear, _images()),
    Complaint("NHWC flatten, then Linear", "#287 #340", ChannelsLastFlattenLinear, _images()),
    Complaint("channel shuffle by views", "#349", ViewShuffle, _images()),
    Complaint("packed attention", "#219 #258 #393", PackedAttention, _tokens()),
    Complaint("cat with itself", "#146", ConcatenatedWithItself, _images()),
    Complaint("split and slice", "#415 #481", SplitAndSlice, _images()),
    Complaint("broadcast multiply", "#510", BroadcastGate, _images()),
    Complaint("C2f", "#147", CrossStage, _images()),
    Complaint("LSTM", "#44", lambda: Recurrent(nn.LSTM), _tokens()),
    Complaint("GRU", "#404", lambda: Recurrent(nn.GRU), _tokens()),
    Complaint("pixel shuffle", "#98 #420", PixelShuffle, _images()),
    Complaint("feature pyramid with a shared head", "#211", SharedHead, _images()),
    Complaint("tied weights", "tied weights", TiedEmbedding, lambda: (torch.randint(0, 11, (2, 5)),)),
    Complaint("einsum", "#136 #178", Einsum, _tokens()),
    Complaint("raw parameter", "#80 #463", RawParameter, _images()),
    Complaint("grouped convolution and group norm", "#204 #417 #479 #492", GroupedConvolution, _images()),
    Complaint("torch's multi-head attention", "#186 #286 #347 #530", MultiheadAttention, _tokens()),
    Complaint("residual stream", "#120 #140 #176 #29 #148", ResidualStream, _images()),
)
