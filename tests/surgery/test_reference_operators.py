"""Operators on a tensor that lacks some of its units: what they give for the rest, and that what is missing stays missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxsparse.surgery.reference import run_reference
from tests.surgery.by_hand import Calls, without

KEEPING: dict[str, Callable[[Tensor], Tensor]] = {
    "embedding bag, empty": lambda x: F.embedding_bag(torch.tensor([0, 1]), x, torch.tensor([0, 0])),
    "group norm": lambda x: F.group_norm(x[..., None], 1)[..., 0],
    "grid sample, outside": lambda x: F.grid_sample(x[..., None, None], x.new_full((3, 1, 1, 2), 9.0), align_corners=False)[..., 0, 0],
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "log_softmax": lambda x: x.log_softmax(1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "softmax": lambda x: x.softmax(1),
    "softmin": lambda x: F.softmin(x, 1),
    "standardised": lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
    "softmax by hand": lambda x: (x - x.amax(1, keepdim=True)).exp() / (x - x.amax(1, keepdim=True)).exp().sum(1, keepdim=True),
}
REDUCING: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(1),
    "baddbmm": lambda x: torch.baddbmm(x.new_ones(3, 3), x[None], x.mT[None], beta=2, alpha=0.1),
    "bmm": lambda x: x[None] @ x.mT[None],
    "dot": lambda x: x[0] @ x[1],
    "einsum": lambda x: torch.einsum("nc,mc->nm", x, x),
    "logsumexp": lambda x: x.logsumexp(1),
    "max": lambda x: x.max(1).values,
    "mean": lambda x: x.mean(1),
    "min": lambda x: x.min(1, keepdim=True).values,
    "mm": lambda x: x @ x.mT,
    "mv": lambda x: x @ x[0],
    "norm 1": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
    "norm 2": lambda x: x.norm(dim=1),
    "norm of the smallest": lambda x: torch.linalg.vector_norm(x, -torch.inf, dim=1),
    "prod": lambda x: x.prod(1),
    "std": lambda x: x.std(1, correction=0),
    "sum": lambda x: x.sum(1),
    "sum of all": lambda x: x.sum(),
    "var": lambda x: x.var(1, keepdim=True),
    "var_mean": lambda x: torch.stack(torch.var_mean(x, 1)),
}


def on_tainted(function: Callable[[Tensor], Any], x: Tensor, gone: Sequence[int]) -> Tensor:
    module = Calls(lambda m: function(m.x), x=x)
    return run_reference(module, (), {}, {"x": x}, {"x": {1: gone}}).outputs[0]


@pytest.mark.parametrize("name", [*KEEPING, *REDUCING])
def test_statistics_are_over_the_living(name: str) -> None:
    x = torch.randn(3, 7, dtype=torch.float64)
    function = (KEEPING | REDUCING)[name]
    got, expected = on_tainted(function, x, [2, 5]), function(without(x, {1: [2, 5]}))
    if name in KEEPING:
        assert bool(got[:, [2, 5]].isnan().all())
        got = without(got, {1: [2, 5]})
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert bool(on_tainted(function, x, range(7)).isnan().all())


def test_what_a_complex_number_lacks_it_lacks_in_both_parts() -> None:
    def rotated(x: Tensor) -> Tensor:
        y = torch.view_as_real(torch.view_as_complex(x.unflatten(1, (-1, 2))) * 1j).flatten(1)
        return y * (y.square().mean(1, keepdim=True) + 1).rsqrt()

    x = torch.randn(3, 8, dtype=torch.float64)
    got = without(on_tainted(rotated, x, [2, 3]), {1: [2, 3]})
    torch.testing.assert_close(got, rotated(without(x, {1: [2, 3]})), rtol=1e-12, atol=1e-12)


def square_wave(x: Tensor) -> Tensor:
    high = (x > 0) & ~(x >= 1)
    return high.view(high.shape).to(x.dtype)


FUNCTIONAL = """
    celu celu_ elu elu_ gelu hardshrink hardsigmoid hardswish hardtanh hardtanh_ leaky_relu leaky_relu_ logsigmoid mish relu relu6 relu_
    rrelu rrelu_ selu selu_ sigmoid silu softplus softshrink softsign tanh tanhshrink
"""
ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(F, name) for name in FUNCTIONAL.split()} | {
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_": lambda x: x.clamp_(min=0),
    "comparison": square_wave,
    "complex, scaled": lambda x: torch.view_as_real(torch.view_as_complex(torch.stack([x, x], -1)) * 2j).sum(-1),
    "empty_like": lambda x: torch.empty_like(x).fill_(2),
    "hardswish_": lambda x: F.hardswish(x, inplace=True),
    "masked_fill": lambda x: x.masked_fill(x.isnan() | (x > 0), 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "nan_to_num": lambda x: x.nan_to_num(),
    "power of 0": lambda x: x**0,
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.2, dtype=x.dtype)),
    "sign": lambda x: x.sign(),
    "threshold": lambda x: F.threshold(x, 0.1, 3.0),
    "threshold_": lambda x: torch.threshold_(x, 0.1, 3.0),
    "where": lambda x: torch.where(x > 0, x, 0.1),
    "where, condition alone": lambda x: torch.where(x > 0, 1.0, 0.5).to(x.dtype),
    "whole numbers": lambda x: x.long().double(),
}


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("size", [3, 70])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operators_keep_what_is_missing(name: str, size: int, strided: bool) -> None:
    x = torch.randn(3, size, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return ELEMENTWISE[name](torch.stack([x, x], -1)[..., 0] if strided else x.clone())

    gone = [1, *range(30, size)]
    got = on_tainted(function, x, gone)
    assert bool(got[:, [i for i in gone if i < size]].isnan().all())
    torch.testing.assert_close(without(got, {1: gone}), function(without(x, {1: gone})), rtol=1e-12, atol=1e-12)


def test_an_overwritten_place_is_living_again() -> None:
    def function(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 1].copy_(torch.ones(3))
        return x

    assert not bool(on_tainted(function, torch.randn(3, 4, dtype=torch.float64), [1]).isnan().any())
