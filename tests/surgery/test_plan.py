"""Bad plans: one sentence each, and nothing changed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import fxsparse
from tests import cases

BAD: dict[str, tuple[Any, str]] = {
    "no such group": ({"stm": [0]}, r"no group 'stm'.*did you mean 'stem'"),
    "out of range": ({"stem": [0, 8]}, r"'stem' has no living unit 8; its units are 0 to 7"),
    "negative": ({"stem": [-1]}, r"no living unit -1"),
    "twice": ({"stem": [1, 1]}, r"unit 1 stands twice"),
    "empty": ({"stem": []}, r"left without units"),
    "not numbers": ({"stem": ["a"]}, r"list of their numbers"),
    "fractions": ({"stem": [0.5]}, r"list of their numbers"),
    "text": ({"stem": "012"}, r"list of their numbers"),
    "numbers as text": ({"stem": ["0", "1"]}, r"list of their numbers"),
    "a mask": ({"stem": torch.tensor([True, False] * 4)}, r"list of their numbers"),
    "infinite": ({"stem": [math.inf]}, r"list of their numbers"),
    "no list": ({"stem": 3}, r"list of their numbers"),
    "protected": ({"head": [0]}, r"'head' may not lose a unit: the network's output"),
    "no dict": ([0, 1], r"a plan is a dict"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_plans_say_what_is_wrong(name: str) -> None:
    plan, message = BAD[name]
    model = cases.Residual()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    network = fxsparse.trace(model, torch.randn(2, 3, 8, 8))
    with pytest.raises(fxsparse.PlanError, match=message):
        network.shrink(plan)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_a_removed_unit_is_gone_from_later_plans() -> None:
    small = fxsparse.trace(cases.Residual(), torch.randn(2, 3, 8, 8)).shrink({"stem": [0, 4]})
    with pytest.raises(fxsparse.PlanError, match="no living unit 1"):
        small.shrink({"stem": [1]})
    with pytest.raises(fxsparse.PlanError, match=r"unit 4 of group 'stem' has not been removed"):
        small.regrow({"stem": [4]})
    with pytest.raises(fxsparse.PlanError, match="init is"):
        small.regrow(init="ones")  # type: ignore[arg-type]


def test_whole_numbers_of_other_libraries_are_fine() -> None:
    network = fxsparse.trace(cases.Residual(), torch.randn(2, 3, 8, 8))
    for units in (torch.tensor([0, 4]), range(0, 8, 4), (4, 0)):
        assert network.shrink({"stem": units}).group("stem").units == (0, 4)  # type: ignore[dict-item]
