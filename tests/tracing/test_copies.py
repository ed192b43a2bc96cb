"""Structural copies: everything that `copy.deepcopy` keeps, and tensors that are shared or replaced."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections import OrderedDict
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxsparse
from fxsparse.tracing.copies import copy_with, double_copy, duplicate, meta_copy, shared_copy


class Odd(nn.Module):
    """Holds all that modules hold, and more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.tied = self.first.weight
        self.register_buffer("count", torch.zeros(2), persistent=False)
        self.plain = torch.ones(4)
        self.nested: dict[Any, Any] = {"a": [1, (2, self.first)], "b": {3, 4}, "c": OrderedDict(x=[]), 5: None}
        self.recurrent = nn.LSTM(2, 3)
        self.circle: list[Any] = [self]
        self.circle.append(self.circle)
        self.first.register_forward_hook(noted)
        self.norm = parametrizations.weight_norm(nn.Linear(3, 2))


def noted(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out + 1


class Named(nn.Linear):
    """Is copied in its own way."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Named:
        made = Named(self.in_features, self.out_features)
        made.__dict__["extra"] = "own way"
        return made


def state(value: Any, seen: dict[int, int]) -> Any:
    """A nested description of an object and of which of its parts are one."""
    if isinstance(value, Tensor):
        return type(value), seen.setdefault(id(value), len(seen)), tuple(value.shape)
    if value is None or isinstance(value, (int, float, str, bool, type, FunctionType)):
        return value
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, (list, tuple)):
        return type(value), [state(item, seen) for item in value]
    if isinstance(value, dict):
        return type(value), [(key, state(item, seen)) for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(value)
    return type(value), [(key, state(item, seen)) for key, item in getattr(value, "__dict__", {}).items() if key != "_flat_weight_refs"]


def test_a_copy_is_what_deepcopy_makes() -> None:
    module = Odd()
    assert state(duplicate(module, {}), {}) == state(copy.deepcopy(module), {})


def test_a_copy_runs_alone() -> None:
    module = Odd()
    twin = duplicate(module, {})
    x = torch.randn(2, 3)
    torch.testing.assert_close(twin.first(x), module.first(x))
    twin.nested["a"].append("more")
    twin.first._forward_hooks.clear()
    assert len(module.nested["a"]) == 2
    assert len(module.first._forward_hooks) == 1
    assert twin.circle[0] is twin
    assert twin.circle[1] is twin.circle


def test_what_is_copied_in_its_own_way() -> None:
    twin = duplicate(nn.Sequential(Named(2, 2), nn.ReLU()), {})
    assert twin[0].extra == "own way"


def test_a_shared_copy_holds_the_very_tensors() -> None:
    module = Odd()
    twin = shared_copy(module)
    assert all(a is b for a, b in zip(twin.parameters(), module.parameters(), strict=True))
    assert twin.first is not module.first
    assert twin.again is twin.first


def test_a_meta_copy_has_shapes_and_ties_alone() -> None:
    twin = meta_copy(Odd())
    assert all(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers(), twin.plain))
    assert twin.get_parameter("tied") is twin.get_parameter("first.weight")


def test_what_is_kept_is_shared() -> None:
    module = Odd()
    twin = copy_with(module, lambda tensor: tensor, keep=[module.recurrent])
    assert twin.recurrent is module.recurrent
    assert twin.first is not module.first


def test_a_hollow_copy_in_double_has_no_memory() -> None:
    twin = double_copy(nn.Linear(1000, 1000), hollow=True)
    assert [tuple(p.shape) for p in twin.parameters()] == [(1000, 1000), (1000,)]
    assert all(p.dtype == torch.float64 and p.untyped_storage().nbytes() == 8 for p in twin.parameters())


class Holding(nn.Module):
    """Keeps something that will not be copied, on its own and in a list."""

    def __init__(self, thing: object) -> None:
        super().__init__()
        self.make, self.back, self.thing, self.things = nn.Linear(4, 8), nn.Linear(8, 3), thing, [thing]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.back(self.make(x).relu())
        return result


@pytest.mark.parametrize(
    "thing", [threading.Lock(), sys, random.SystemRandom(), (n for n in range(3))], ids=["lock", "module", "system", "generator"]
)
def test_what_will_not_be_copied_is_shared(thing: object) -> None:
    network = fxsparse.trace(Holding(thing).eval(), torch.randn(2, 4), check=True)
    small = network.shrink({"make": [0, 2, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-9
    assert small.as_original()(torch.randn(2, 4)).shape == (2, 3)
