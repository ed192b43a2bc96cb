"""Amounts as people write them."""

from __future__ import annotations

import pytest

from fxsparse.budgets import Amount
from fxsparse.errors import BudgetError


@pytest.mark.parametrize(
    ("said", "amount"),
    [
        (0.5, 500),
        (1.0, 1000),
        (700, 700),
        ("0.25", 250),
        ("50%", 500),
        ("2k", 2000),
        ("1.5M", 1.5e6),
        ("3 MB", 3e6),
        ("3.2ms", 3.2),
        (1, 1),
    ],
)
def test_amounts(said: float | int | str, amount: float) -> None:
    assert Amount.parse(said, "macs").of(1000) == pytest.approx(amount)


@pytest.mark.parametrize("said", ["half", "", "1.2Q", "M", 0.0, -1, -0.5, "0", "150%"])
def test_what_is_no_amount(said: float | int | str) -> None:
    with pytest.raises(BudgetError, match="macs="):
        Amount.parse(said, "macs")
