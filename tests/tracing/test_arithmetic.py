"""What code computes from a size follows the input, or refuses another one; nothing of it is a constant in silence."""

from __future__ import annotations

import copy
import fractions
import math
import operator
from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.tracing.arithmetic import FUNCTIONS

FOLLOWED: dict[str, Callable[[Any], Any]] = {
    "divmod": lambda n: divmod(n, 3)[0] + divmod(100, n)[1],
    "shifts": lambda n: (n >> 1) + (n << 2) + (1 << n) % 7,
    "bits": lambda n: (n & 6) + (n | 1) + (n ^ 5) + ~n + (5 & n),
    "power": lambda n: pow(n, 2, 7) + n**2 + 2**n % 5,
    "signs": lambda n: abs(-n) + (+n),
    "ends": lambda n: math.ceil(n) + math.floor(n / 3) + math.trunc(n / 2.5) + round(n, -1) + round(n / 3, 1),
    "parts": lambda n: n.real + n.numerator + n.conjugate() + (n / 2).real,
    "logarithms": lambda n: math.log(n) + math.log(n, 2) + math.log10(n) + log2(n),
    "roots": lambda n: math.sqrt(n) + math.isqrt(n) + math.hypot(n, 1),
    "divisors": lambda n: math.gcd(n, 12) + math.lcm(n, 3),
    "waves": lambda n: math.exp(-n / 100) + math.sin(n / 3) + math.pow(n, 0.5) + math.fmod(n, 5),
    "sums": lambda n: sum([n, 1]) + math.prod([n, 2]),
    "extremes": lambda n: min(n, 10) + max([n, 3]),
    "copies": lambda n: copy.deepcopy([n, n / 2])[0] + copy.deepcopy(n / 3) + copy.copy(n) + copy.copy(n / 4),
    "functions": lambda n: operator.mul(n, 3) + operator.floordiv(n, 2),
}
REFUSED: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda n: float(np.sqrt(n)),
    "bit lengths": lambda n: n.bit_length(),
    "bytes": lambda n: n.to_bytes(2, "big")[1],
    "ratios": lambda n: (n / 2).as_integer_ratio()[0],
    "whole numbers": lambda n: 1.0 if (n / 8).is_integer() else 2.0,
    "both parts": lambda n: math.modf(n / 3)[0],
    "closeness": lambda n: 1.0 if math.isclose(n / 8, 1.0, rel_tol=0.1) else 2.0,
    "repetitions": lambda n: len([0] * n),
    "texts": lambda n: len(n * "a"),
    "fractions": lambda n: float(fractions.Fraction(n, 12)),
    "the nearest": lambda n: min((8, 20), key=lambda width: abs(width - n)),
    "the larger pair": lambda n: max((n, 1), (12, 2))[1],
    "a table": lambda n: {8: 1.0, 12: 2.0}.get(n, 3.0),
}


class Computing(nn.Module):
    def __init__(self, compute: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.last, self.compute = nn.Linear(3, 4), nn.Linear(4, 2), compute

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu()) + self.compute(x.shape[1])
        return out


@pytest.mark.parametrize("compute", FOLLOWED.values(), ids=FOLLOWED)
def test_it_is_followed(compute: Callable[[Any], Any]) -> None:
    model = Computing(compute).eval()
    network = fxsparse.trace(model, torch.randn(2, 8, 3), check=True)
    small = network.shrink({"first": [0, 3]})
    for length in (8, 20, 9):
        x = torch.randn(3, length, 3)
        torch.testing.assert_close(network(x), model(x))
        assert fxsparse.verify(network, small, inputs=x).max_error <= 1e-9


@pytest.mark.parametrize("compute", REFUSED.values(), ids=REFUSED)
def test_or_another_input_is_refused(compute: Callable[[Any], Any]) -> None:
    model = Computing(compute).eval()
    network = fxsparse.trace(model, torch.randn(2, 8, 3))
    x = torch.randn(3, 8, 3)
    torch.testing.assert_close(network(x), model(x))
    with pytest.raises(fxsparse.TraceError, match=r"\.py:\d+ .* when the model was traced|another answer than"):
        network(torch.randn(2, 20, 3))


def test_a_width_in_a_function_keeps_its_value() -> None:
    class Scaled(Computing):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out: Tensor = self.last(y / math.sqrt(y.shape[-1]) * math.log(y.shape[-1]))
            return out

    model = Scaled(abs).eval()
    network = fxsparse.trace(model, torch.randn(2, 8, 3), check=True)
    assert fxsparse.verify(network, network.shrink({"first": [0, 3]}), inputs=torch.randn(2, 5, 3)).max_error <= 1e-9


def test_functions_are_what_they_were() -> None:
    before = {name: getattr(math, name) for name in ("sqrt", "log", "gcd")}
    fxsparse.trace(Computing(FOLLOWED["roots"]), torch.randn(2, 8, 3))
    assert all(getattr(math, name) is function for name, function in before.items())
    assert log2 is math.log2 and log2 in FUNCTIONS


class Rows:
    """A list, as detection models have them."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.shape[0]


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = Rows(self.last(self.first(x).relu()))
        return rows.rows.sum(0) / len(rows)


def test_the_length_of_a_users_own_list_is_followed() -> None:
    model = Counting().eval()
    network = fxsparse.trace(model, torch.randn(2, 3), check=True)
    x = torch.randn(5, 3)
    torch.testing.assert_close(network(x), model(x))
