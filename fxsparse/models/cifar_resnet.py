"""The residual networks that the sparse-training literature measures on CIFAR.

`resnet20` to `resnet110` are those of He et al. (2016, section 4.2): three stages of 16, 32 and 64 channels, and a shortcut without
parameters where the width doubles (option A; option B, a 1x1 convolution, on request). `resnet18`, `resnet34` and `resnet50` are the
ImageNet networks with a 3x3 stem and without the first pooling. Parameter names follow the usual public implementations, so that their
checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _shortcut(option: Shortcut, width_in: int, width_out: int, stride: int) -> nn.Module:
    if stride == 1 and width_in == width_out:
        return nn.Sequential()
    if option == "A":
        new = width_out - width_in
        return PadShortcut(new // 2, new - new // 2, stride)
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int, option: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(option, width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1, four times as wide at the end."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int, option: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(option, width_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem, stages of blocks, global average pooling and one linear layer; each stage but the first halves the image.

    >>> CifarResNet(BasicBlock, depths=(1, 1), widths=(16, 32), option="A")(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        option: Shortcut,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        width_in = widths[0]
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        for name, depth, width in zip(self.stages, depths, widths, strict=True):
            blocks = nn.Sequential()
            for index in range(depth):
                stride = 2 if index == 0 and name != "layer1" else 1
                blocks.append(block(width_in, width, stride, option))
                width_in = width * block.expansion
            self.add_module(name, blocks)
        self.linear = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def _thin(blocks: int, shortcut: Shortcut, num_classes: int) -> CifarResNet:
    return CifarResNet(BasicBlock, (blocks,) * 3, (16, 32, 64), shortcut, num_classes)


def resnet20(shortcut: Shortcut = "A", num_classes: int = 10) -> CifarResNet:
    return _thin(3, shortcut, num_classes)


def resnet32(shortcut: Shortcut = "A", num_classes: int = 10) -> CifarResNet:
    return _thin(5, shortcut, num_classes)


def resnet44(shortcut: Shortcut = "A", num_classes: int = 10) -> CifarResNet:
    return _thin(7, shortcut, num_classes)


def resnet56(shortcut: Shortcut = "A", num_classes: int = 10) -> CifarResNet:
    return _thin(9, shortcut, num_classes)


def resnet110(shortcut: Shortcut = "A", num_classes: int = 10) -> CifarResNet:
    return _thin(18, shortcut, num_classes)


def resnet18(shortcut: Shortcut = "B", num_classes: int = 10) -> CifarResNet:
    return CifarResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), shortcut, num_classes)


def resnet34(shortcut: Shortcut = "B", num_classes: int = 10) -> CifarResNet:
    return CifarResNet(BasicBlock, (3, 4, 6, 3), (64, 128, 256, 512), shortcut, num_classes)


def resnet50(shortcut: Shortcut = "B", num_classes: int = 10) -> CifarResNet:
    return CifarResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), shortcut, num_classes)
