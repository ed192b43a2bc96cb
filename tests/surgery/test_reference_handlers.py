"""Operators that have a handler of their own in the reference and are seldom met: by hand, against the same call on what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.surgery.by_hand import without
from tests.surgery.test_reference_operators import on_tainted

GONE = [2, 5]
aten: Any = torch.ops.aten

# Functions of a 3 x 7 tensor that lacks columns; the result is over those that are left.
REDUCING: dict[str, Callable[[Tensor], Tensor]] = {
    "addbmm": lambda x: torch.addbmm(x.new_ones(3, 3), x[None], x.mT[None], beta=2, alpha=0.1),
    "addbmm_": lambda x: x.new_ones(3, 3).addbmm_(x[None], x.mT[None], beta=2, alpha=0.1),
    "addmv": lambda x: torch.addmv(x.new_ones(3), x, x[0], beta=3, alpha=0.5),
    "addmv_": lambda x: x.new_ones(3).addmv_(x, x[0], beta=3, alpha=0.5),
    "conv_tbc": lambda x: torch.conv_tbc(x[:, None, :], x.mT[None], x.new_ones(3)),
    "std_mean": lambda x: torch.stack(torch.std_mean(x, 1)),
    "vdot": lambda x: torch.vdot(x[0], x[1]),
}
KEEPING: dict[str, Callable[[Tensor], Tensor]] = {
    "_safe_softmax": lambda x: aten._safe_softmax(x, 1),
    "grid_sampler_3d": lambda x: F.grid_sample(
        x[..., None, None, None].expand(-1, -1, 2, 2, 2), torch.full((3, 1, 1, 1, 3), 0.3).to(x), align_corners=False
    )[..., 0, 0, 0],
    "grid_sampler_3d, outside": lambda x: F.grid_sample(
        x[..., None, None, None], torch.full((3, 1, 1, 1, 3), 9.0).to(x), align_corners=False
    )[..., 0, 0, 0],
    "col2im, between the patches": lambda x: F.fold(x[..., None], (2, 2), (1, 1), stride=2)[..., 1, 1],
    "max_unpool2d, where nothing was": lambda x: F.max_unpool2d(x[..., None, None], torch.zeros(*x.shape, 1, 1, dtype=torch.int64), [2, 2])[
        ..., 1, 1
    ],
    "max_unpool3d, where nothing was": lambda x: F.max_unpool3d(
        x[..., None, None, None], torch.zeros(*x.shape, 1, 1, 1, dtype=torch.int64), [2, 2, 2]
    )[..., 1, 1, 1],
}


@pytest.mark.parametrize("name", sorted(REDUCING))
def test_what_is_gone_is_a_missing_term(name: str) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(on_tainted(REDUCING[name], x, GONE), REDUCING[name](without(x, {1: GONE})), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(REDUCING[name](x), REDUCING[name](without(x, {1: GONE})))  # the columns matter


@pytest.mark.parametrize("name", sorted(KEEPING))
def test_what_is_gone_stays_gone(name: str) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = on_tainted(KEEPING[name], x, GONE)
    assert bool(got[:, GONE].isnan().all())
    torch.testing.assert_close(without(got, {1: GONE}), KEEPING[name](without(x, {1: GONE})), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("function", "best"), [(torch.argmax, 9.0), (torch.argmin, -9.0)], ids=["argmax", "argmin"])
def test_what_is_gone_is_never_the_extreme(function: Callable[..., Tensor], best: float) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[:, GONE] = best
    got = on_tainted(lambda t: function(t, 1), x, GONE)
    expected = function(without(x, {1: GONE}), 1)
    living = [i for i in range(7) if i not in GONE]
    assert got.tolist() == [living[i] for i in expected.tolist()]
