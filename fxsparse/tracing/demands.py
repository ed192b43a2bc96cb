"""What modules ask of their own tensors, even where a recorded run does not show it.

A recurrent layer that runs a single step from a state of zeros never multiplies what it made: nothing on the tape says that its hidden
state and the columns of its recurrent weight are the same units. Its kernel does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn


class Demand(NamedTuple):
    """An axis, in so many equal parts, each of which is the other axis."""

    tensor: str
    axis: int
    parts: int
    other: str
    other_axis: int


def demands_of(module: nn.Module) -> Iterator[Demand]:
    """Those of a module and of all that it holds, by state_dict keys."""
    for name, each in module.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(each, nn.RNNCellBase):
            hidden = f"{prefix}weight_hh"
            yield Demand(hidden, 0, each.weight_hh.shape[0] // each.hidden_size, hidden, 1)
        elif isinstance(each, nn.RNNBase):
            for layer in range(each.num_layers):
                for direction in ("", "_reverse") if each.bidirectional else ("",):
                    hidden, projection = (f"{prefix}{kind}_l{layer}{direction}" for kind in ("weight_hh", "weight_hr"))
                    if each.proj_size:
                        yield Demand(projection, 0, 1, hidden, 1)
                    else:
                        yield Demand(hidden, 0, {"LSTM": 4, "GRU": 3}.get(each.mode, 1), hidden, 1)
