"""What a forward pass leaves behind for its next call, which a graph would forget."""

# mypy: disable-error-code="no-any-return"
# What a submodule returns is Any to a type checker.

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Keeping(nn.Module):
    """A layer that keeps something, between two that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)), nn.Linear(4, 2)
        self.state: Any = torch.zeros(4)
        self.calls, self.seen = 1, [0]
        self.register_buffer("mean", torch.zeros(4))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.keep(self.first(x)))

    def keep(self, y: Tensor) -> Tensor:
        return y


class Potential(Keeping):
    def keep(self, y: Tensor) -> Tensor:
        self.state = self.state * 0.9 + y.mean(0)
        return y + self.state


class FromNone(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self.state = None

    def keep(self, y: Tensor) -> Tensor:
        y = y if self.state is None else y + self.state
        self.state = y.detach()
        return y


class OtherBuffer(Keeping):
    def keep(self, y: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + y.detach().mean(0)
        return y - self.mean


class Counting(Keeping):
    def keep(self, y: Tensor) -> Tensor:
        self.calls += 1
        return y * self.calls


class Listing(Keeping):
    def keep(self, y: Tensor) -> Tensor:
        self.seen.append(1)
        return y * len(self.seen)


class InDict(Keeping):
    """The running state under a key, begun from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, Tensor] = {}

    def keep(self, y: Tensor) -> Tensor:
        before = self.states.get("y", torch.zeros_like(y))
        self.states["y"] = 0.5 * before + y.detach()
        return y + self.states["y"]


class InList(Keeping):
    """Frames of a sequence, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Tensor] = []

    def keep(self, y: Tensor) -> Tensor:
        self.frames = [*self.frames, y.detach()][-2:]
        return torch.stack(self.frames).mean(0)


class AtFirst(Keeping):
    """What the first input says, begun from an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(0)

    def keep(self, y: Tensor) -> Tensor:
        if self.mean.shape[0] == 0:
            self.mean = y.detach().mean(0)
        return y - self.mean


class Rescaling(Keeping):
    """Divides a weight, the first time."""

    def keep(self, y: Tensor) -> Tensor:
        if self.calls == 1:
            self.last.weight.data.div_(2)
        self.calls = 0
        return y


KEEPING = [Potential, FromNone, OtherBuffer, Counting, Listing, InDict, InList, AtFirst, Rescaling]


@pytest.mark.parametrize("cls", KEEPING, ids=lambda cls: cls.__name__)
def test_what_is_kept_stays_in_the_users_code(cls: type[Keeping]) -> None:
    torch.manual_seed(0)
    model, x = cls().eval(), torch.randn(2, 3)
    network = fxsparse.trace(model, x)
    assert any("for its next call" in note for note in network.notes)
    assert "first.0" in [group.name for group in network.groups if group.prunable]
    with torch.no_grad():
        module = copy.deepcopy(network.module)  # with weights of its own
        for _ in range(3):
            assert torch.equal(module(x), model(x))
    network = fxsparse.trace(cls().eval(), x)
    assert fxsparse.verify(network, network.shrink({"first.0": [0, 2]})).max_error < 1e-9


class Crossing(Keeping):
    """What another layer made comes in with the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.second = None, nn.Linear(4, 4)

    def keep(self, y: Tensor) -> Tensor:
        z = self.second(y)
        z = z if self.state is None else z + self.state
        self.state = y
        return z


def test_what_is_kept_loses_nothing() -> None:
    network = fxsparse.trace(Crossing().eval(), torch.randn(2, 3))
    reasons = {group.name: group.reason for group in network.groups}
    assert reasons["first.2"] == "plain Python code keeps it for its next call"


class Training(Counting):
    def keep(self, y: Tensor) -> Tensor:
        return super().keep(y) if self.training else y


def test_what_train_mode_keeps_leaves_eval_mode_a_graph() -> None:
    torch.manual_seed(0)
    model, x = Training().eval(), torch.randn(2, 3)
    network = fxsparse.trace(model, x)
    assert network.origin.islands == ("",)
    model.train()
    network.module.train()
    for _ in range(3):
        assert torch.equal(network(x), model(x))


class Table(Keeping):
    """Computed once, and again for other inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.state = None

    def keep(self, y: Tensor) -> Tensor:
        if self.state is None or self.state.shape[0] != y.shape[0]:
            self.state = torch.arange(y.shape[0], dtype=y.dtype).unsqueeze(1)
        return y + self.state


class TableInBuffer(Keeping):
    """The same, begun from an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(0), persistent=False)
        self.table: Tensor

    def keep(self, y: Tensor) -> Tensor:
        if self.table.shape != y.shape[:1]:
            self.table = torch.arange(y.shape[0], dtype=y.dtype)
        return y + self.table.unsqueeze(1)


class Watched(Keeping):
    """What nobody reads."""

    def keep(self, y: Tensor) -> Tensor:
        self.state, self.calls = y.softmax(-1), self.calls + 1
        self.seen.append(1)
        return y * 2


class Moved(Keeping):
    """The same values, wherever they are wanted."""

    def keep(self, y: Tensor) -> Tensor:
        self.state = self.state.to(y.device)
        return y + self.state


@pytest.mark.parametrize("cls", [Table, TableInBuffer, Watched, Moved], ids=lambda cls: cls.__name__)
def test_what_changes_no_later_call_is_traced(cls: type[Keeping]) -> None:
    torch.manual_seed(0)
    model = cls().eval()
    network = fxsparse.trace(model, torch.randn(2, 3))
    assert network.origin.islands == ("",)
    assert not network.notes
    x = torch.randn(5, 3)
    assert torch.equal(network(x), model(x))


class Tables(Keeping):
    """What is computed once from shapes, types and devices is a table."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[Any, Tensor] = {}
        self.shown: dict[str, Tensor] = {}

    def keep(self, y: Tensor) -> Tensor:
        if "scale" not in self.masks:
            self.masks["scale"] = torch.arange(4, device=y.device).to(y) + torch.zeros_like(y[0]).type_as(y)
        self.shown["features"] = y
        return y * self.masks["scale"]


def test_a_table_in_a_dict_and_what_is_there_to_be_seen_are_no_state() -> None:
    network = fxsparse.trace(Tables().eval(), torch.randn(2, 3), check=True)
    assert not network.notes
