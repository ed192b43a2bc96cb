"""Code that counts by whole numbers among its inputs: where it cannot go on with made-up ones, it is told those of the example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxsparse


class Packed(nn.Module):
    """Rows of several images in one: each is mixed for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.late = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        places = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        y = torch.cat([self.mix(part) - part.mean(0) for part in x.split(lengths.tolist())])
        if lengths.max() > 100:
            y = self.late(y)
        return self.out(y) + places[:, None]  # type: ignore[no-any-return]


def test_what_counts_by_given_numbers_is_traced_in_parts() -> None:
    model, x, lengths = Packed().eval(), torch.randn(6, 4), torch.tensor([4, 2])
    network = fxsparse.trace(model, (x, lengths), check=True)
    assert "mix" in network.origin.islands and lengths.tolist() == [4, 2]
    small = network.shrink({"mix.0": [0, 2, 5]})
    fxsparse.verify(network, small)
    others = torch.randn(5, 4), torch.tensor([1, 1, 3])
    torch.testing.assert_close(network(*others), model(*others))
    assert small(*others).shape == (5, 3)
    assert torch.equal(small.regrow().module.state_dict()["mix.0.weight"], model.state_dict()["mix.0.weight"])


def test_ways_that_other_numbers_take_are_known() -> None:
    network = fxsparse.trace(Packed().eval(), (torch.randn(6, 4), torch.tensor([4, 2])))
    group = network.group("late.0")
    assert group.prunable and {member.tensor for member in group.members} >= {"late.0.weight", "late.2.weight"}


def test_a_table_of_a_made_up_size_is_not_made() -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, size: Tensor) -> Tensor:
            places = torch.ones(size.tolist()).flatten(1).cumsum(1)  # of a million million numbers, were each a thousand
            return self.fc(x) + places.reshape(len(x), -1).sum(1)[:, None]  # type: ignore[no-any-return]

    network = fxsparse.trace(Grid().eval(), (torch.randn(2, 4), torch.tensor([2, 3, 3, 5])), check=True)
    assert network.origin.islands == ()


@pytest.mark.parametrize(
    "asks", [lambda lengths: lengths.numpy()[0] > 100, lambda lengths: torch.equal(lengths, lengths * 2)], ids=["numpy", "equal"]
)
def test_what_is_looked_at_past_all_questions_is_protected(asks: Callable[[Tensor], bool]) -> None:
    class Looking(Packed):
        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            y = torch.cat([self.mix(part) for part in x.split(lengths.tolist())])
            return self.out(self.late(y) + (y * 2 if asks(lengths) else 0))  # type: ignore[no-any-return]

    network = fxsparse.trace(Looking().eval(), (torch.randn(6, 4), torch.tensor([4, 2])))
    assert "could not be traced" in network.group("late.2").reason and network.group("late.0").prunable


def test_without_numbers_among_the_inputs_the_refusal_stands() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(self.fc(x).split(x.sum(0).abs().long().tolist()))

    with pytest.raises(fxsparse.TraceError, match="cannot go on without it"):
        fxsparse.trace(Looking().eval(), torch.ones(8, 4))
