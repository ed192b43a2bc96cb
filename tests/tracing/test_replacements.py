"""FreeAttention computes what nn.MultiheadAttention does, with its keys."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from fxsparse.tracing.replacements import FreeAttention, replace_attention, restore_attention

OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 5, "vdim": 7},
    {"kdim": 5, "vdim": 7, "bias": False, "batch_first": True, "add_bias_kv": True},
]


@pytest.mark.parametrize(("options", "need_weights"), list(itertools.product(OPTIONS, [False, True])), ids=str)
def test_equal_to_torch(options: dict[str, Any], need_weights: bool) -> None:
    source = nn.MultiheadAttention(12, 3, **options).double().eval()
    free = FreeAttention(source).eval()
    assert list(free.state_dict()) == list(source.state_dict())
    q = torch.randn(4, 2, 12, dtype=torch.float64)
    k = torch.randn(6, 2, options.get("kdim", 12), dtype=torch.float64)
    v = torch.randn(6, 2, options.get("vdim", 12), dtype=torch.float64)
    if options.get("batch_first"):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[0, 4:] = True
    mask = torch.randn(4, 6, dtype=torch.float64)
    for extra in ({}, {"key_padding_mask": padding}, {"attn_mask": mask}, {"attn_mask": mask.expand(6, 4, 6)}):
        expected, expected_weights = source(q, k, v, need_weights=need_weights, **extra)
        got, weights = free(q, k, v, need_weights=need_weights, **extra)
        torch.testing.assert_close(got, expected)
        if need_weights:
            torch.testing.assert_close(weights, expected_weights)
    parameters = list(source.parameters())
    for a, b in zip(
        torch.autograd.grad(expected.sum(), parameters, allow_unused=True),
        torch.autograd.grad(got.sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_self_attention_unbatched_and_per_head_weights() -> None:
    source = nn.MultiheadAttention(12, 3).double().eval()
    free = FreeAttention(source).eval()
    x = torch.randn(5, 12, dtype=torch.float64)
    for a, b in zip(source(x, x, x, average_attn_weights=False), free(x, x, x, average_attn_weights=False), strict=True):
        torch.testing.assert_close(a, b)


def test_there_and_back() -> None:
    model = nn.TransformerEncoderLayer(12, 3, batch_first=True).eval()
    free = replace_attention(model)
    assert isinstance(free.self_attn, FreeAttention)
    back = restore_attention(free)
    assert isinstance(back.self_attn, nn.MultiheadAttention)
    assert back(torch.randn(2, 4, 12)).shape == (2, 4, 12)
