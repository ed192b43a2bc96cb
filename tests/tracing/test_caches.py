"""Functions with a cache that a model asks about shapes: sizes stay dynamic, and no trace sees another's numbers."""

from __future__ import annotations

import collections
import functools
import sys
import types
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fxsparse


@functools.lru_cache(maxsize=64)
def folded(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0] * shape[1], shape[2]


@functools.cache
def ramp(width: int) -> Tensor:
    return torch.arange(width) / width


class Folding(nn.Module):
    """A reshape whose sizes come out of a cached function."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)
        self.out = nn.Linear(5, 2)

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def rows(self, batch: int, length: int) -> int:
        return batch * length

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).relu().view(folded(tuple(self.fc(x).shape)))
        result: Tensor = self.out(y).view(self.rows(x.shape[0], x.shape[1]), 2) + ramp(2)
        return result


@pytest.mark.parametrize("ran_before", [False, True])
def test_sizes_out_of_a_cache_stay_dynamic(ran_before: bool) -> None:
    model = Folding().eval()
    x, longer = torch.randn(2, 3, 6), torch.randn(4, 7, 6)
    folded.cache_clear()
    if ran_before:
        model(x)
    network = fxsparse.trace(model, x)
    assert network.origin.islands == ("",)  # all of it is a graph
    assert torch.equal(network(longer), model(longer))
    small = network.shrink({"fc": [0, 2]})
    assert small(longer).shape == model(longer).shape
    fxsparse.verify(network, small)


def test_a_model_is_traced_twice() -> None:
    model = Folding().eval()
    networks = [fxsparse.trace(model, torch.randn(2, 3, 6)) for _ in range(2)]
    longer = torch.randn(4, 7, 6)
    assert all(torch.equal(network(longer), model(longer)) for network in networks)
    assert all(network.origin.islands == ("",) for network in networks)


def test_the_caches_are_left_as_they_were() -> None:
    cached = folded
    model = Folding().eval()
    folded.cache_clear()
    model(torch.randn(2, 3, 6))
    fxsparse.trace(model, torch.randn(2, 3, 6))
    assert folded is cached and folded.cache_info().currsize == 1
    assert all(type(n) is int for n in folded((2, 3, 5)))


class Keeping(nn.Module):
    """Keeps a size of one run for the next, where nobody looks for it."""

    sizes: ClassVar[Any] = types.SimpleNamespace()

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = vars(self.sizes).setdefault("rows", x.shape[0] * 3)
        result: Tensor = self.fc(x).reshape(rows // 3 * 3, 5)
        return result


def test_a_number_of_another_trace_is_a_plain_one() -> None:
    vars(Keeping.sizes).clear()
    model, x = Keeping().eval(), torch.randn(2, 3, 6)
    first = fxsparse.trace(model, x)
    second = fxsparse.trace(model, x)
    assert torch.equal(first(x), second(x))
    assert [node.op for node in second.module.graphs["eval"].graph.nodes].count("call_method") == 1  # type: ignore[index, union-attr]


def remembering(function: Any) -> Any:
    """A decorator that keeps its cache to itself, as libraries write them."""
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return cached(*args)

    return call


class Remembering(nn.Module):
    """Looks at a value, so that its code runs again and again while its parts are looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6))

    @staticmethod
    @remembering
    def steps(width: int, device: torch.device) -> Tensor:
        return torch.arange(width, device=device) / width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.part(x) + self.steps(x.shape[-1], x.device)
        return y * 2 if y.sum() > 1e9 else y


def test_a_cache_behind_a_decorator_is_asked_anew_in_each_recording() -> None:
    network = fxsparse.trace(Remembering().eval(), torch.randn(2, 6))
    assert network.origin.islands == ("part",)
    assert network.group("part.0").prunable


@remembering
def doubled(shape: tuple[int, ...]) -> int:
    return shape[0] * 2


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.fc(x).relu()) * folded((x.shape[0], 2, 3))[0] / doubled((x.shape[0],))
        return result / x.shape[0] * folded((x.shape[0], 1, 1))[0]


def test_a_cache_that_stands_in_two_modules_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script is `__main__` and `__mp_main__`, and others import a function from where it is made."""
    other: Any = types.ModuleType("other_name")
    other.folded, other.doubled = folded, doubled
    monkeypatch.setitem(sys.modules, "other_name", other)
    monkeypatch.setitem(sys.modules, "same_module", sys.modules[__name__])
    cached = folded
    model, x = Doubling().eval(), torch.randn(5, 6)
    model(torch.randn(2, 6))
    network = fxsparse.trace(model, torch.randn(2, 6))
    assert torch.equal(network(x), model(x))
    assert folded is cached


TABLES: dict[tuple[int, ...], Tensor] = {}
LAST: list[Tensor] = []


class Tabling(nn.Module):
    """Keeps tables beside its class, in its class, and in a list."""

    tables: ClassVar[dict[int, Tensor]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.make, self.back = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if (rows, 3) not in TABLES:
            TABLES[rows, 3] = torch.arange(3.0, device=x.device)
        if rows not in self.tables:
            self.tables[rows] = torch.full((3,), 2.0, device=x.device)
        LAST.append(x)
        result: Tensor = self.back(self.make(x).relu()) * self.tables[rows] + TABLES[rows, 3]
        return result


def test_tables_forget_what_a_recording_put_there() -> None:
    model, x = Tabling().eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x)
    small = network.shrink({"make": [0, 2, 5]})
    assert not TABLES and not Tabling.tables and not LAST
    wanted = model(x)
    assert len(LAST) == 1 and set(TABLES) == {(2, 3)}
    torch.testing.assert_close(network(x), wanted)
    assert fxsparse.verify(network, small).max_error < 1e-9
    torch.testing.assert_close(fxsparse.trace(model, torch.randn(2, 4))(x), wanted)
    assert not any(each.is_meta for each in (*TABLES.values(), *LAST, *Tabling.tables.values()))


SLOTS: dict[str, Tensor | None] = {"mask": None}
PLACE: list[Tensor | None] = [None]
MASK: Tensor | None = None


class Slots(nn.Module):
    """Keeps one tensor in each of the places that are there for it."""

    mask: ClassVar[Tensor | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.make, self.back = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        global MASK
        if SLOTS["mask"] is None:
            SLOTS["mask"] = torch.full((4,), 2.0, device=x.device)
        if PLACE[0] is None:
            PLACE[0] = torch.full((4,), 3.0, device=x.device)
        if MASK is None:
            MASK = torch.full((4,), 4.0, device=x.device)
        if type(self).mask is None:
            type(self).mask = torch.full((4,), 5.0, device=x.device)
        assert SLOTS["mask"] is not None and PLACE[0] is not None and self.mask is not None
        result: Tensor = self.back(self.make(x).relu()) * SLOTS["mask"] + PLACE[0] * MASK * self.mask
        return result


def test_what_a_recording_puts_in_the_place_of_something_is_taken_back() -> None:
    model, x = Slots().eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x)
    assert SLOTS == {"mask": None} and PLACE == [None] and MASK is None and Slots.mask is None
    torch.testing.assert_close(network(x), model(x))
    small = network.shrink({"make": [0, 2, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-9
    assert not any(each is None or each.is_meta for each in (SLOTS["mask"], PLACE[0], MASK, Slots.mask))


class Stubborn(dict[Any, Any]):
    """A table that does not let go, and does not say what is in it."""

    def __delitem__(self, key: Any) -> None:
        raise TypeError(key)

    def items(self) -> Any:
        raise TypeError("nobody knows")


STUBBORN = Stubborn()
FIRST: list[Any] = [1]
MANY: dict[Any, Any] = {(number,): number for number in range(2000)}
MANY_LISTED: list[Any] = list(range(2000))


class Filling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.make, self.back = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for table in (STUBBORN, MANY):
            table["shape", x.shape[0]] = x * 2
        FIRST.insert(0, x)
        MANY_LISTED.append(x)
        result: Tensor = self.back(self.make(x).relu())
        return result


def test_tables_of_any_kind_and_length_keep_what_is_the_users() -> None:
    fxsparse.trace(Filling().eval(), torch.randn(2, 4))
    assert FIRST == [1] and len(MANY) == 2000 and list(range(2000)) == MANY_LISTED


class Makers(collections.OrderedDict[str, Any]):
    """Makes what it is asked for, as tables of activations by name do."""

    def __getitem__(self, name: str) -> nn.Module:
        module: nn.Module = super().__getitem__(name)()
        return module


ACTIVATIONS = Makers(prelu=nn.PReLU, relu=nn.ReLU)


def test_tables_that_make_what_they_are_asked_for_are_not_asked() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Doing(), nn.Linear(6, 2)).eval()
    network = fxsparse.trace(model, torch.randn(2, 4))
    assert {call.name for each in network.origin.structure.reading.tapes for call in each.tape.calls} == {
        "aten.t",
        "aten.addmm",
        "aten.relu",
    }
    assert len(network.shrink({"0": [1, 3]}).group("0").units) == 2


class Doing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


@functools.cache
def steps(width: int, device: torch.device) -> Tensor:
    return torch.arange(width, device=device) / width


@remembering
def wide_steps(width: int, device: torch.device) -> Tensor:
    return torch.arange(width, device=device) * width


class Asking(nn.Module):
    """It looks at a value, so that parts of it are graphs, and asks cached functions for tensors beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2 if x.sum() > 0 else x
        return self.part(x) + steps(4, torch.device("cpu")) + wide_steps(4, torch.device("cpu"))  # type: ignore[no-any-return]


def test_a_table_that_is_computed_for_the_first_time_is_computed_once() -> None:
    steps.cache_clear()
    model, x = Asking().eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x, check=True)
    assert network.origin.islands == ("part",) and network.group("part.0").prunable
    torch.testing.assert_close(network(x), model(x))
