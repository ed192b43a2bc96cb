"""Whether a sparse network still holds together: empty layers, paths from the input to the output, weights that no path uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fxsparse.axes.factors import Axis, Bools
from fxsparse.models.dyrelu import DyReLU
from fxsparse.network import Network
from fxsparse.sparsity.targets import is_contraction

Channels = npt.NDArray[np.int64]  # numbers of channels: coordinates that are coupled are one channel


@dataclass(frozen=True)
class Health:
    """What is left of a network under its masks."""

    empty: tuple[str, ...]  # masked tensors without a living weight
    reached: int  # outputs that some path of living weights connects with the input
    outputs: int
    used: int  # living weights that are on a path from the input to an output
    living: int

    @property
    def connected(self) -> bool:
        return self.reached > 0

    def advice(self) -> str | None:
        """A sentence, when something is wrong."""
        said = []
        if self.empty:
            said.append(f"{len(self.empty)} layers have no weight left, {', '.join(self.empty[:3])} among them")
        if self.reached < self.outputs:
            which = "no path of living weights leads" if not self.reached else f"to {self.outputs - self.reached} outputs no path leads"
            said.append(f"{which} from the input{'' if self.reached else ' to the output'}")
        if not said:
            return None
        hint = "raise the density, share weights (sharing=2), or allot weights evenly (allocation='erk')"
        return f"the network falls apart: {'; '.join(said)}; {hint}"


class _Layer:
    """One weight: channels that it reads and channels that it makes. -1 stands for pixels and the like."""

    def __init__(self, key: str, reads: Channels, makes: Channels) -> None:
        self.key, self.reads, self.makes = key, reads, makes  # coordinates x channels that make up a coordinate


class Connections:
    """The channels of a network, and which weights connect them. Coupling, from residual additions to reshapes, is that of the analysis.

    Where an axis is a product of several (heads and head dimensions, say), a weight counts as connecting with each of its parts: what is
    said to be connected may then not be, never the other way round.
    """

    def __init__(self, network: Network) -> None:
        structure = network.origin.structure
        self.network, self.count = network, structure.solution.count
        self.layers: list[_Layer] = []
        hidden = {name for name, each in network.module.named_modules() if isinstance(each, DyReLU)}
        for prefix, module in network.module.named_modules():
            if any(f"{prefix}.".startswith(f"{name}.") for name in hidden):
                continue
            for attribute in module._parameters:
                key = f"{prefix}.{attribute}" if prefix else attribute
                axes = structure.reading.tensors.get(key)
                if axes is not None and len(axes) > 1 and is_contraction(module, attribute):
                    makes, reads = (1, 0) if getattr(module, "transposed", False) else (0, 1)
                    self.layers.append(_Layer(key, self._channels(axes[reads]), self._channels(axes[makes])))
        made = np.concatenate([layer.makes.reshape(-1) for layer in self.layers])
        read = np.concatenate([layer.reads.reshape(-1) for layer in self.layers])
        self.inputs: Channels = np.setdiff1d(read, made)  # what no weight makes comes from outside
        tape = structure.reading.tapes[0]
        ends = [self._channels(axis) for ref in tape.tape.outputs for axis in tape.axes[ref.id] if any(not f.free for f in axis)]
        self.outputs: Channels = np.unique(np.concatenate([each[each >= 0] for each in ends])) if ends else np.zeros(0, np.int64)

    def health(self, masks: Mapping[str, Tensor]) -> Health:
        """Look at the network under these masks; tensors that are not named are dense."""
        pairs = {layer.key: self._pairs(layer, masks.get(layer.key)) for layer in self.layers}
        forward, backward = np.zeros(self.count + 1, dtype=bool), np.zeros(self.count + 1, dtype=bool)
        forward[self.inputs] = True
        backward[self.outputs] = True
        self._spread(pairs, forward, ahead=True)
        self._spread(pairs, backward, ahead=False)
        used = 0
        for layer in self.layers:
            if layer.key in masks:
                used += int(pairs[layer.key][np.ix_(backward[layer.makes].any(1), forward[layer.reads].any(1))].sum())
        empty = tuple(key for key, mask in masks.items() if not bool(mask.any()))
        living = sum(int(mask.sum()) for mask in masks.values())
        return Health(empty, int(forward[self.outputs].sum()), len(self.outputs), used, living)

    def _spread(self, pairs: Mapping[str, npt.NDArray[np.int64]], seen: Bools, ahead: bool) -> None:
        """Mark everything that can be reached, until nothing new is found."""
        count = -1
        while count != (count := int(seen.sum())):
            for layer in self.layers if ahead else reversed(self.layers):
                here, there = (layer.reads, layer.makes) if ahead else (layer.makes, layer.reads)
                table = pairs[layer.key] if ahead else pairs[layer.key].T
                found = (table[:, seen[here].any(1)] > 0).any(1)
                seen[np.setdiff1d(there[found], [-1])] = True

    def _pairs(self, layer: _Layer, mask: Tensor | None) -> npt.NDArray[np.int64]:
        """How many weights connect what is made (rows) with what is read (columns)."""
        shape = (len(layer.makes), len(layer.reads))
        if mask is None:
            return np.ones(shape, dtype=np.int64)
        table = mask.detach().flatten(2).sum(2).cpu().numpy() if mask.dim() > 2 else mask.detach().cpu().numpy()
        table = table.astype(np.int64)
        return table if table.shape == shape else table.T

    def _channels(self, axis: Axis) -> Channels:
        """Of each coordinate, the channels that it belongs to; -1 where it belongs to none, as pixels do."""
        structure = self.network.origin.structure
        shape = [factor.size for factor in axis]
        columns = []
        for position, factor in enumerate(axis):
            if not factor.free:
                view = [1] * len(shape)
                view[position] = factor.size
                columns.append(np.broadcast_to(structure.factor_classes(factor).reshape(view), shape).reshape(-1))
        size = int(np.prod(shape)) if shape else 1
        return np.stack(columns, 1) if columns else np.full((size, 1), -1, dtype=np.int64)
