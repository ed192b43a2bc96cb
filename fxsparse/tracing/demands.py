"""What modules ask of their own tensors, even where a recorded run does not show it.

A recurrent layer that runs a single step from a state of zeros never multiplies what it made: nothing on the tape says that its hidden
state and the columns of its recurrent weight are the same units. Its kernel does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from fxsparse.tracing.walk import named_modules


class Demand(NamedTuple):
    """An axis, in so many equal parts, each of which is the other axis."""

    tensor: str
    axis: int
    parts: int
    other: str
    other_axis: int


def demands_of(module: nn.Module) -> Iterator[Demand]:
    """Those of a module and of all that it holds, by state_dict keys. A weight that other code makes at each run may not be there."""
    for name, each in named_modules(module):
        prefix = f"{name}." if name else ""
        if isinstance(each, nn.RNNCellBase) and hasattr(each, "weight_hh"):
            hidden = f"{prefix}weight_hh"
            yield Demand(hidden, 0, len(each.weight_hh) // each.hidden_size, hidden, 1)
        elif isinstance(each, nn.RNNBase):
            for layer in range(each.num_layers):
                for direction in ("", "_reverse") if each.bidirectional else ("",):
                    hidden, projection = (f"weight_{kind}_l{layer}{direction}" for kind in ("hh", "hr"))
                    if not hasattr(each, hidden):
                        continue
                    gates = len(getattr(each, hidden)) // each.hidden_size
                    made, parts = (projection, 1) if each.proj_size else (hidden, gates)
                    yield Demand(prefix + made, 0, parts, prefix + hidden, 1)
