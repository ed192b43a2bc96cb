"""Self-attention over a sequence (b, n, c), written in the ways that are met in the field."""

# mypy: disable-error-code="no-any-return"
# What a submodule returns is Any to a type checker.

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedAttention(nn.Module):
    """One Linear for q, k, v, seen as (b, n, 3, heads, d); an explicit softmax with a scale from the constructor."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class FusedAttention(nn.Module):
    """The same packing, indexed instead of unbound, through the fused operator."""

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=self.causal)
        return self.proj(out.transpose(1, 2).flatten(2))


class ChunkedAttention(nn.Module):
    """One Linear cut into three by chunk; the scale is computed in forward from the width."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.size()
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = q.view(b, n, self.heads, c // self.heads).transpose(1, 2)
        k = k.view(b, n, self.heads, c // self.heads).transpose(1, 2)
        v = v.view(b, n, self.heads, c // self.heads).transpose(1, 2)
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(k.size(-1)), dim=3)
        return self.proj((weights @ v).transpose(1, 2).contiguous().view(b, n, c))


class InterleavedAttention(nn.Module):
    """q, k and v lie together in each head: (b, n, heads, 3 d)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (self.heads, 3 * self.head_dim)).transpose(1, 2)
        q, k, v = qkv.split([self.head_dim, self.head_dim, self.head_dim], dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class SeparateAttention(nn.Module):
    """Three projections, `C // heads` in forward, and a learned position bias for each head."""

    def __init__(self, dim: int, heads: int, places: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.empty(heads, places, places))
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) * (x.shape[-1] // self.heads) ** -0.5 + self.bias
        out = torch.matmul(scores.softmax(-1), v).permute(0, 2, 1, 3)
        return self.out(out.reshape(x.shape))


class GroupedQueryAttention(nn.Module):
    """Fewer keys and values than queries; each is used by `heads // pairs` heads."""

    def __init__(self, dim: int, heads: int, pairs: int, style: str) -> None:
        super().__init__()
        self.heads, self.pairs, self.style = heads, pairs, style
        self.head_dim = dim // heads
        self.q_proj = nn.Linear(dim, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(dim, pairs * self.head_dim, bias=False)
        self.v_proj = nn.Linear(dim, pairs * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, n, self.pairs, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, n, self.pairs, self.head_dim).transpose(1, 2)
        if self.style == "fused":
            return self.o_proj(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).reshape(b, n, -1))
        times = self.heads // self.pairs
        if self.style == "expand":
            k = k[:, :, None].expand(b, self.pairs, times, n, self.head_dim).reshape(b, self.heads, n, self.head_dim)
            v = v[:, :, None].expand(b, self.pairs, times, n, self.head_dim).reshape(b, self.heads, n, self.head_dim)
        else:
            k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class MultiQueryAttention(nn.Module):
    """One key and one value for all heads; they broadcast."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * self.head_dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, self.head_dim))
        k, v = self.kv(x).split(self.head_dim, dim=-1)
        weights = torch.einsum("bnhd,bmd->bhnm", q * self.head_dim**-0.5, k).softmax(-1)
        return self.out(torch.einsum("bhnm,bmd->bnhd", weights, v).flatten(2))


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another, of another width."""

    def __init__(self, dim: int, other: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(other, 2 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, (k, v) = self.to_q(x), self.to_kv(y).chunk(2, dim=-1)
        q, k, v = (t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class MergedHeadsAttention(nn.Module):
    """Heads join the batch, and torch.bmm does the work, as MultiheadAttention did it of old; sequence first."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        n, b, c = x.shape
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).split(c, dim=-1)
        q = q.contiguous().view(n, b * self.heads, self.head_dim).transpose(0, 1)
        k = k.contiguous().view(-1, b * self.heads, self.head_dim).transpose(0, 1)
        v = v.contiguous().view(-1, b * self.heads, self.head_dim).transpose(0, 1)
        weights = F.softmax(torch.bmm(q * 0.5, k.transpose(1, 2)), dim=-1)
        out = torch.bmm(weights, v).transpose(0, 1).contiguous().view(n, b, c)
        return self.out_proj(out).transpose(0, 1)


class NormedAttention(nn.Module):
    """q and k are normalised over the head's dimension, all heads with the same scale, and a rotary embedding follows."""

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int, heads: int, places: int) -> None:
        super().__init__()
        self.heads, half = heads, dim // heads // 2
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = nn.LayerNorm(2 * half), nn.RMSNorm(2 * half, eps=1e-5)
        self.proj = nn.Linear(dim, dim)
        angles = torch.outer(torch.arange(places).float(), 0.3 ** torch.arange(half).float())
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-b, a], dim=-1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TalkingAttention(nn.Module):
    """The heads' scores are mixed by a Linear before the softmax, and masked by a causal buffer."""

    mask: Tensor

    def __init__(self, dim: int, heads: int, places: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.mix = nn.Linear(heads, heads)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("mask", torch.ones(places, places).triu(1).bool())

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = self.mix((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        scores = scores.masked_fill(self.mask[:n, :n], float("-inf"))
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class LinearAttention(nn.Module):
    """No softmax over pairs: positive features of q and k, and (k^T v) first."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = F.relu(q) + 0.1, F.relu(k) + 0.1
        out = q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(dim=-2, keepdim=True).transpose(-2, -1))
        return self.proj(out.transpose(1, 2).reshape(b, n, c))


class PoolingAttention(nn.Module):
    """A learned query gathers the sequence into one vector."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.empty(1, 1, dim))
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.probe.expand(b, -1, -1).reshape(b, 1, self.heads, c // self.heads).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, c))
