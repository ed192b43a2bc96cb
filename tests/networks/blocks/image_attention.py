"""Attention over images: (b, c, h, w) with convolutions, and (b, h, w, c) in windows."""

# mypy: disable-error-code="no-any-return"
# What a submodule returns is Any to a type checker.

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageAttention(nn.Module):
    """q, k, v from 1x1 convolutions, heads cut from the channels, places as columns."""

    def __init__(self, dim: int, heads: int, key_dim: int) -> None:
        super().__init__()
        self.heads, self.key_dim = heads, key_dim
        self.scale = key_dim**-0.5
        self.q, self.k, self.v = nn.Conv2d(dim, heads * key_dim, 1), nn.Conv2d(dim, heads * key_dim, 1), nn.Conv2d(dim, dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q = self.q(x).view(b, self.heads, self.key_dim, h * w)
        k = self.k(x).view(b, self.heads, self.key_dim, h * w)
        v = self.v(x).view(b, self.heads, c // self.heads, h * w)
        weights = (q.transpose(-2, -1) @ k * self.scale).softmax(dim=-1)
        return x + self.proj((v @ weights.transpose(-2, -1)).view(b, c, h, w))


class EinsumAttention(nn.Module):
    """The same, packed in one convolution and written as einsum."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, x.shape[1] // self.heads)).unbind(1)
        weights = torch.einsum("bhdi,bhdj->bhij", q * 0.6, k).softmax(dim=-1)
        return self.proj(torch.einsum("bhij,bhdj->bhdi", weights, v).flatten(1, 2).unflatten(2, (h, w)))


class ChannelAttention(nn.Module):
    """Attention among channels (XCA): normalised q and k over the places, a temperature for each head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.empty(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        q, k = q / (q.norm(dim=-1, keepdim=True) + 0.1), k / (k.norm(dim=-1, keepdim=True) + 0.1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.proj((weights @ v).reshape(b, c, h, w))


class WindowAttention(nn.Module):
    """Swin's: windows as a batch, cyclic shift, a table of relative position biases, and the way back."""

    index: Tensor

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.scale = (dim // heads) ** -0.5
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        distance = (grid[:, :, None] - grid[:, None, :]) + window - 1
        self.register_buffer("index", distance[0] * (2 * window - 1) + distance[1])
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        m = self.window
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), dims=(1, 2)) if self.shift else self.norm(x)
        y = y.view(b, h // m, m, w // m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, m * m, c)
        q, k, v = self.qkv(y).reshape(y.shape[0], m * m, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(m * m, m * m, -1).permute(2, 0, 1)
        weights = (q * self.scale @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        y = self.proj((weights @ v).transpose(1, 2).reshape(-1, m * m, c))
        y = y.view(b, h // m, w // m, m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + (torch.roll(y, (self.shift, self.shift), dims=(1, 2)) if self.shift else y)
