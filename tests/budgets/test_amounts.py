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
        (1, 1),
    ],
)
def test_amounts(said: float | int | str, amount: float) -> None:
    assert Amount.parse(said, "macs").of(1000) == pytest.approx(amount)


@pytest.mark.parametrize(("what", "said", "amount"), [("memory", "3 MB", 3e6), ("memory", "2M", 2e6), ("latency", "3.2ms", 3.2)])
def test_amounts_with_units_of_their_own(what: str, said: str, amount: float) -> None:
    assert Amount.parse(said, what).of(1000) == pytest.approx(amount)


@pytest.mark.parametrize(("what", "said", "example"), [("memory", "20ms", "20MB"), ("latency", "2M", "3.2ms"), ("macs", "3MB", "2.5M")])
def test_units_of_something_else(what: str, said: str, example: str) -> None:
    with pytest.raises(BudgetError, match=f"{what}='{said}' is no amount; .* or an amount such as {example}"):
        Amount.parse(said, what)


@pytest.mark.parametrize("said", [1.5, "2.5", 70.2])
def test_what_is_neither_a_share_nor_a_number_of_things(said: float | str) -> None:
    with pytest.raises(BudgetError, match=r"is neither a share, which is at most 1.0, nor a whole number"):
        Amount.parse(said, "macs")
    assert Amount.parse(said, "latency").of(100) == pytest.approx(float(said))


@pytest.mark.parametrize("said", ["half", "", "1.2Q", "M", 0.0, -1, -0.5, "0", "150%"])
def test_what_is_no_amount(said: float | int | str) -> None:
    with pytest.raises(BudgetError, match="macs="):
        Amount.parse(said, "macs")
