"""A part of torch's own samples (`python -m tests.operators` takes all of them), and that a wrong rule fails on them."""

from __future__ import annotations

import pytest

pytest.importorskip("expecttest", reason="torch's test database needs it")

import fxsparse
from tests import operators

NAMES = [
    "bmm",
    "cat",
    "index_select",
    "nn.functional.conv2d",
    "nn.functional.max_unpool2d",
    "nn.functional.glu",
    "nn.functional.layer_norm",
    "roll",
    "softmax",
    "split",
]


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_torch_hold(name: str) -> None:
    found = operators.run(name, 4)
    assert found["counts"].get(operators.HELD, 0) > 0
    assert not found[operators.FAILED] and not found[operators.REFUSED]


def test_a_wrong_rule_fails() -> None:
    fxsparse.register_rule("aten::cumsum", "(…) -> (…)")
    try:
        found = operators.run("cumsum", 4)
    finally:
        fxsparse.unregister_rule("aten::cumsum")
    assert "differs from the reference" in found[operators.FAILED]["cumsum"]
