"""Networks over images that users of other pruning tools could not prune."""

# mypy: disable-error-code="no-any-return"
# What a submodule returns is Any to a type checker.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.blocks.gates import Excite, ShuffleUnit
from tests.networks.blocks.image_attention import WindowAttention


class FlattenLinear(nn.Module):
    """(C, H, W) is flattened before a Linear: each channel owns H x W of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc(x.view(x.size(0), -1))


class ChannelsLastFlattenLinear(nn.Module):
    """NHWC is flattened before a Linear, so that a channel's inputs stand apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).permute(0, 2, 3, 1).flatten(1))


class ViewShuffle(nn.Module):
    """ShuffleNet's channel shuffle by views."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.head(F.relu(self.depthwise(x)).mean((2, 3)))


class ConcatenatedWithItself(nn.Module):
    """cat([x, x]): one channel has two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.second(torch.cat([x, x], dim=1))


class SplitAndSlice(nn.Module):
    """Parts of unequal width, cut out by split and by slices."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 9, 1)
        self.a, self.b, self.c = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.first(x), [4, 5], dim=1)
        return self.head(self.a(left) + self.b(right[:, :3]) + self.c(right[:, 3:]))


class BroadcastGate(nn.Module):
    """A (b, 1, h, w) map times 32 channels couples nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)
        self.gate = nn.Conv2d(32, 1, 1)
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(x * torch.sigmoid(self.gate(x)))


class CrossStage(nn.Module):
    """YOLO's C2f: halves of one convolution and a list that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 4
        self.first = nn.Conv2d(3, 2 * self.c, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(self.c, self.c, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(4 * self.c, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        parts.extend(block(parts[-1]) for block in self.blocks)
        return self.last(torch.cat(parts, 1))


class PixelShuffle(nn.Module):
    """Four channels become one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.shuffle(self.first(x))))


class SharedHead(nn.Module):
    """A feature pyramid whose levels share one head."""

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


class RawParameter(nn.Module):
    """A raw parameter between layers, which no tool of modules sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x) * self.scale)


class GroupedConvolution(nn.Module):
    """Groups of a convolution stay equal, whatever is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 1)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.grouped(F.relu(self.first(x)))))


class ResidualStream(nn.Module):
    """A stream that several blocks write to: its momentum must follow, and all must come back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class UnflattenGroups(nn.Module):
    """Channels are seen as (groups, rest) with literal sizes, normalised by hand for each group, and merged again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 1)
        self.gain = nn.Parameter(torch.rand(3, 1, 1, 1) + 0.5)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.tanh(x.view(x.shape[0], 3, 4, 8, 8)) * self.gain
        return self.head(x.reshape(-1, 12, 8, 8))


class UnbalancedGroups(nn.Module):
    """A grouped convolution reads a concatenation whose seam lies inside a group: what goes must go from all groups alike."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 3, padding=1)
        self.grouped = nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.grouped(torch.cat([self.left(x), self.right(x)], dim=1))))


class DepthwiseMultiplier(nn.Module):
    """Each channel makes two, and the halves are added: one unit of the sum owns two of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.depthwise(F.relu(self.first(x))).chunk(2, dim=1)
        return self.head(left + right)


class SqueezeExcite(nn.Module):
    """A gate of (b, c, 1, 1), made from the channels that it scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.excite = Excite(8, 3)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.excite(self.first(x)))


class ShuffleUnits(nn.Module):
    """Two ShuffleNet units: chunk, a branch, cat, shuffle by views, and again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.units = nn.Sequential(ShuffleUnit(8), ShuffleUnit(8))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.units(self.first(x)))


class NamedTensors(nn.Module):
    """Keys of every sort: nested modules, a weight norm's two originals, a module under two names, a buffer and a raw parameter."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3, padding=1))
        self.stages = nn.ModuleDict({"first": nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)), "second": nn.Conv2d(6, 6, 1)})
        self.again = self.stages["second"]
        self.register_buffer("mean", torch.linspace(-1, 1, 6).view(6, 1, 1))
        self.shift = nn.Parameter(torch.rand(6, 1, 1))
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages["first"](self.stem(x)) - self.mean
        return self.head(self.again(F.relu(self.stages["second"](x) + self.shift)))


class WindowedAttention(nn.Module):
    """Two Swin blocks on (b, h, w, c), the second one shifted, with tables of relative position biases."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 1)
        self.blocks = nn.Sequential(WindowAttention(12, 3, 4, 0), WindowAttention(12, 3, 4, 2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))
