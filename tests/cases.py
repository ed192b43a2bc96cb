"""Small networks, one for each thing that a user's code may do. What is asked of each is the same: see tests/test_cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and whether something of it can be pruned."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    prunable: bool = True


CASES: list[Case] = []


def case(*shape: int, prunable: bool = True, ints: int | None = None) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a class whose forward takes one tensor of this shape (whole numbers below `ints`, if given)."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        def inputs() -> tuple[Any, ...]:
            return (torch.randint(ints, shape),) if ints else (torch.randn(*shape),)

        CASES.append(Case(cls.__name__, cls, inputs, prunable))
        return cls

    return register


@case(2, 3, 8, 8)
class Unpooling(nn.Module):
    """An encoder and its decoder: the places that the one found are where the other puts its values, channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner, self.up, self.head = (nn.Conv2d(*sizes, 3, padding=1) for sizes in ((3, 8), (8, 6), (6, 8), (8, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(self.down(x), 2, return_indices=True)
        x = F.max_unpool2d(self.up(self.inner(x).relu()), places, [2, 2])
        result: Tensor = self.head(x.sigmoid())
        return result


@case(2, 3, 8, 8)
class Chain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(216, 5)
        )


@case(2, 3, 8, 8)
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 6, 1)
        self.b = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x = x + self.b(torch.sigmoid(self.a(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@case(2, 3, 8, 8)
class Concatenate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 4, 1)
        self.c = nn.Conv2d(14, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        out: Tensor = self.c(torch.cat([b, a, a], 1).tanh())
        return out


@case(2, 3, 8, 8)
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.gate = nn.Conv2d(8, 1, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = F.hardsigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        out: Tensor = self.head(x * scale * torch.sigmoid(self.gate(x)))
        return out


@case(2, 8, 6, 6)
class ViewShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, c, h, w = x.size()
        x = x.view(b, 3, c // 3, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        out: Tensor = self.b(x.relu())
        return out


@case(2, 3, 4, 4)
class FlattenNHWC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1))
        return out


@case(2, 4, 8, 8)
class Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(4, 12, 1), nn.Conv2d(12, 8, 3, groups=4), nn.GroupNorm(2, 8), nn.GELU(), nn.Conv2d(8, 16, 3, groups=8),
            nn.ConvTranspose2d(16, 8, 3, groups=4), nn.PixelShuffle(2), nn.PReLU(2), nn.PixelUnshuffle(2), nn.Conv2d(8, 3, 1),
        )  # fmt: skip


@case(2, 6, 10)
class Convolutions1d(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(6, 9, 3, groups=3), nn.BatchNorm1d(9), nn.ReLU6(), nn.ConvTranspose1d(9, 6, 3), nn.InstanceNorm1d(6, affine=True),
            nn.Conv1d(6, 4, 1), nn.GLU(1), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip


@case(2, 2, 6, 6, 6)
class Convolutions3d(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(2, 6, 3),
            nn.BatchNorm3d(6),
            nn.LeakyReLU(),
            nn.MaxPool3d(2),
            nn.ConvTranspose3d(6, 4, 2),
            nn.Mish(),
            nn.Conv3d(4, 2, 1),
        )


@case(2, 5, 12)
class PackedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.embed, self.norm = nn.Linear(12, 12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
        out: Tensor = self.head(x.mean(1))
        return out


@case(2, 5, 12)
class SeparateAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 16), nn.Linear(12, 8), nn.Linear(12, 8)
        self.out = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k, v = (p(x).view(b, n, 2, 4).transpose(1, 2).repeat_interleave(2, 1) for p in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


@case(2, 5, 12)
class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, dropout=0.0)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        y, _ = self.attention(x[:, :1], x, x, need_weights=False)
        out: Tensor = self.head(y.squeeze(1))
        return out


@case(2, 3, 6, 6)
class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.bias = nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bchw,co->bohw", self.conv(x).relu(), self.weight) + self.bias[:, None, None]
        out: Tensor = self.head(torch.einsum("bohw->bo", x))
        return out


class _Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(5, 6), cell, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.cell(self.embed(x))
        out: Tensor = self.head(y)
        return out


def _add_recurrent(name: str, make: Callable[[], nn.Module], width: int) -> None:
    CASES.append(Case(name, lambda: _Recurrent(make(), width), lambda: (torch.randn(2, 4, 5),)))


_add_recurrent("LSTM", lambda: nn.LSTM(6, 7, num_layers=2, batch_first=True), 7)
_add_recurrent("LSTMBidirectional", lambda: nn.LSTM(6, 4, bidirectional=True), 8)
_add_recurrent("LSTMProjected", lambda: nn.LSTM(6, 7, proj_size=3), 3)
_add_recurrent("GRU", lambda: nn.GRU(6, 5, num_layers=2, bidirectional=True, batch_first=True), 10)
_add_recurrent("RNN", lambda: nn.RNN(6, 5), 5)


@case(2, 4, ints=10)
class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.mix = nn.Linear(8, 8)
        self.bag = nn.EmbeddingBag(10, 6)
        self.merge = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x) + self.position
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1)
        y = F.gelu(self.mix(y))[:, 0] * self.merge(self.bag(x))
        return F.linear(y, self.embedding.weight)  # tied with the embedding


@case(2, 6)
class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.last(self.again(F.elu(self.again(x))))
        return out


@case(2, 3, 6, 6)
class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.b = parametrizations.spectral_norm(nn.Conv2d(8, 6, 1))
        self.rms = nn.RMSNorm(6)
        self.weight = nn.Parameter(torch.randn(5, 6, 1, 1))
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.softplus(self.a(x)))
        x = self.rms(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        out: Tensor = self.head(F.conv2d(x, (self.weight - mean) / std))
        return out


@case(2, 3, 6, 6)
class InPlaceSlices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 5, 1)
        self.c = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, :5] = self.b(x).relu()
        y[:, 2:].mul_(0.5)
        y += 1
        z = torch.zeros(x.shape[0], 8, 6, 6, device=x.device, dtype=y.dtype)
        z[:, :3] += y[:, 5:]
        out: Tensor = self.c(y.narrow(1, 0, 8) + z)
        return out


@case(2, 3, 6, 6)
class SplitAndChunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 1)
        self.b, self.c, self.d = nn.Conv2d(4, 3, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        first, second = x.split([4, 8], dim=1)
        left, right = x.chunk(2, dim=1)
        out: Tensor = self.b(first.cos()) + self.c(second) + self.d(left * right.sigmoid())
        return out


@case(2, 4, 6, 6)
class PadShortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 10, 3, 2, 1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        out: Tensor = self.head(F.adaptive_avg_pool2d((self.conv(x) + short).relu(), 1).flatten(1))
        return out


@case(2, 3, 8, 8)
class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Linear(16, 8)
        self.c = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.unfold(self.a(x), 2, stride=2).transpose(1, 2)
        y = F.fold(self.b(y).transpose(1, 2), (8, 8), 2, stride=2)
        out: Tensor = self.c(y)
        return out


@case(4, 6)
class Pairs(nn.Module):
    """Every channel of one branch with every channel of another, by a weight for each pair."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pair, self.head = nn.Linear(6, 8), nn.Linear(6, 5), nn.Bilinear(8, 5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pair(self.a(x), self.b(x)))
        return out


@case(2, 3, 6, 6)
class Resizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.a(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        y = F.max_pool2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), 2) + F.avg_pool2d(y, 3, 2, 1).mean((2, 3), keepdim=True)
        out: Tensor = self.b(y)
        return out


@case(2, 6)
class AlongChannels(nn.Module):
    """Softmax, sort, cumulative sum, roll and mean over channels: all protected, none wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(6))
        self.free = nn.Linear(6, 9)
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = (layer(x) for layer in self.layers)
        x = a.softmax(1) + b.sort(1).values + c.cumsum(1) + torch.roll(d, 1, 1) + e - f.mean(1, keepdim=True)
        out: Tensor = self.head(self.free(x).tanh())
        return out


@case(2, 6)
class TrainAndEval(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.dropout(self.a(x).relu(), 0.5, self.training)
        if self.training:
            return self.b(x), self.aux(x)
        out: Tensor = self.b(x)
        return out


@case(2, 5, 8)
class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.register_buffer("periods", 1.0 / 10 ** (torch.arange(0, 4, 2) / 4), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        assert isinstance(self.periods, Tensor)
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * self.periods
        angle = torch.cat([angle, angle], -1)
        left, right = x.chunk(2, dim=-1)
        return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = self.turn(q) @ self.turn(k).transpose(-2, -1) / math.sqrt(q.shape[-1])
        out: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, 8))
        return out


@case(2, 3, 8, 8)
class SharedHead(nn.Module):
    """A pyramid: one head over several levels, outputs in a dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.l1, self.l2 = nn.Conv2d(6, 5, 1), nn.Conv2d(8, 5, 1)
        self.head = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(), nn.Conv2d(7, 2, 1))

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        a = self.c1(x).relu()
        b = self.c2(a).relu()
        top = self.l2(b)
        low = self.l1(a) + F.interpolate(top, scale_factor=2.0)
        return {"levels": [self.head(level) for level in (low, top)]}


@case(2, 6)
class UnknownOperator(nn.Module):
    """A custom operator that looks harmless and mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.fxsparse_tests.mix(self.a(x))
        out: Tensor = self.d(self.c(self.b(y).relu()).relu())
        return out


@torch.library.custom_op("fxsparse_tests::mix", mutates_args=())
def mix(x: Tensor) -> Tensor:
    return x + x.flip(-1) * torch.arange(x.shape[-1], dtype=x.dtype)


@mix.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _mix_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.width = output.shape[-1]


def _mix_backward(ctx: Any, grad: Tensor) -> Tensor:
    return grad + (grad * torch.arange(ctx.width, dtype=grad.dtype)).flip(-1)


mix.register_autograd(_mix_backward, setup_context=_mix_setup)


@case(2, 3, 8, 8)
class Island(nn.Module):
    """Control flow on data: only the parts can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU())
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            x = x * 2
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out
