"""Recurrent layers in the ways that people call them: any number of layers, directions, first states; down to one hidden unit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Recurrent(nn.Module):
    def __init__(self, cls: Any, layers: int, bidirectional: bool, first: str, last: str) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.embed = nn.Linear(5, 6)
        self.rnn = cls(6, 8, num_layers=layers, bidirectional=bidirectional, batch_first=True)
        self.ways = 2 if bidirectional else 1
        self.start = nn.Linear(5, 8 * layers * self.ways)
        self.head = nn.Linear(8 * (1 if last == "last state" else self.ways), 3)

    def state(self, x: Tensor) -> Any:
        count = self.ways * self.rnn.num_layers
        if self.first == "none":
            return None
        if self.first == "zeros":  # made on the default device, as most code does
            made = torch.zeros(count, x.size(0), self.rnn.hidden_size)
        elif self.first == "like a weight":  # where the weights are, and of their dtype
            made = next(self.parameters()).new_zeros(count, x.size(0), self.rnn.hidden_size)
        else:
            made = self.start(x[:, 0]).view(x.size(0), count, -1).transpose(0, 1).contiguous()
        return (made, torch.zeros_like(made)) if self.rnn.mode == "LSTM" else made

    def forward(self, x: Tensor) -> Any:
        out, state = self.rnn(self.embed(x), self.state(x))
        state = state[0] if isinstance(state, tuple) else state
        if self.last == "sequence":
            return self.head(out)
        if self.last == "last state":
            return self.head(state[-1])
        return self.head(torch.cat([state[-2], state[-1]], 1) if self.ways == 2 else state[-1])


FORMS = [(1, False, "sequence"), (2, False, "last state"), (1, True, "last states"), (2, True, "sequence")]


@pytest.mark.parametrize(("form", "first"), list(zip(FORMS, ("none", "zeros", "computed", "like a weight"), strict=True)), ids=str)
@pytest.mark.parametrize("cls", [nn.RNN, nn.GRU, nn.LSTM], ids=lambda cls: cls.__name__)
def test_hidden_units_are_one_group_of_any_size(cls: Any, first: str, form: tuple[int, bool, str]) -> None:
    torch.manual_seed(0)
    layers, bidirectional, last = form
    network = fxsparse.trace(Recurrent(cls, layers, bidirectional, first, last).eval(), torch.randn(3, 4, 5))
    assert network.origin.islands == ("",)
    (hidden,) = [group for group in network.groups if ("rnn.weight_hh_l0", 1) in {(m.tensor, m.axis) for m in group.members}]
    assert hidden.prunable and len(hidden.units) == 8
    for units in ([5], [0, 3, 7]):
        small = network.shrink({hidden.name: units})
        assert small.module.get_submodule("rnn").hidden_size == len(units)
        for batch, length in ((3, 4), (2, 6)):
            assert fxsparse.verify(network, small, inputs=(torch.randn(batch, length, 5),)).max_error <= 1e-9


class Cells(nn.Module):
    def __init__(self, cls: Any) -> None:
        super().__init__()
        self.cell, self.head = cls(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        zeros = torch.zeros(x.size(0), 8)
        state: Any = (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros
        outputs = []
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outputs, 1))


@pytest.mark.parametrize("cls", [nn.RNNCell, nn.GRUCell, nn.LSTMCell], ids=lambda cls: cls.__name__)
def test_cells(cls: Any) -> None:
    network = fxsparse.trace(Cells(cls).eval(), torch.randn(3, 4, 5))
    for units in ([5], [0, 3, 7]):
        assert fxsparse.verify(network, network.shrink({"cell": units}), inputs=(torch.randn(2, 4, 5),)).max_error <= 1e-9


@pytest.mark.parametrize("projected", [0, 5])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cls", [nn.RNN, nn.GRU, nn.LSTM], ids=lambda cls: cls.__name__)
def test_a_single_step_shows_no_recurrence_and_binds_the_state_all_the_same(cls: Any, layers: int, projected: int) -> None:
    if projected and cls is not nn.LSTM:
        pytest.skip("only LSTM projects")

    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = cls(4, 8, num_layers=layers, batch_first=True, **({"proj_size": projected} if projected else {}))
            self.head = nn.Linear(projected or 8, 3)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.rnn(x)[0][:, -1])

    network = fxsparse.trace(Short().eval(), torch.randn(2, 1, 4))
    plan = {group.name: [1, 3, 4] if i else [0, 6] for i, group in enumerate(network.groups) if group.prunable}
    small = network.shrink(plan)
    rnn: Any = small.module.get_submodule("rnn")
    assert rnn.weight_hh_l0.shape[1] == (rnn.proj_size or rnn.hidden_size) < (projected or 8)
    for length in (1, 3):  # of more steps than were recorded
        assert fxsparse.verify(network, small, inputs=(torch.randn(2, length, 4),)).max_error <= 1e-9


@pytest.mark.parametrize("cls", [nn.RNNCell, nn.GRUCell, nn.LSTMCell], ids=lambda cls: cls.__name__)
def test_a_cell_that_runs_once(cls: Any) -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.cell, self.head = nn.Linear(5, 8), cls(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Any:
            state: Any = self.start(x)
            state = self.cell(x, (state, state) if isinstance(self.cell, nn.LSTMCell) else state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    network = fxsparse.trace(Once().eval(), torch.randn(3, 5))
    (hidden,) = [group.name for group in network.groups if group.prunable]
    assert fxsparse.verify(network, network.shrink({hidden: [0, 3, 7]})).max_error <= 1e-9


def test_a_projection_as_wide_as_the_hidden_state_is_refused() -> None:
    """torch tells an LSTM with a projection by the two being different."""

    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 5, proj_size=3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.rnn(x)[0])

    network = fxsparse.trace(Projected().eval(), torch.randn(2, 3, 4))
    hidden, projected = (group.name for group in network.groups if group.prunable)
    with pytest.raises(
        fxsparse.PlanError, match=r"LSTM 'rnn' would have as many hidden units as projected ones, 3, .* one unit more or less"
    ):
        network.shrink({hidden: [0, 1, 2]})
    for plan in ({hidden: [0, 4]}, {hidden: [1], projected: [0, 2]}, {hidden: [0, 1, 2], projected: [1]}):
        assert fxsparse.verify(network, network.shrink(plan)).max_error <= 1e-9
