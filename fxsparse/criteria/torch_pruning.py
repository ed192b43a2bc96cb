"""Torch-Pruning's importance objects as criteria: a group in the form that they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fxsparse.criteria.base import Data, Scores
from fxsparse.criteria.gradients import gradients
from fxsparse.criteria.units import Units, normaliser
from fxsparse.errors import PassError
from fxsparse.network import Network


@dataclass(frozen=True)
class TorchPruning:
    """Asks an importance object for the scores of each group. Theirs rank the units of one group; see `units.relative` for the scale."""

    importance: Any
    normalise: str = "relative"

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
        import torch_pruning as peer

        units = Units(network)
        self._give_gradients(network, data)
        found: dict[str, Scores] = {}
        for name in groups:
            try:
                scores = self.importance(self._group(peer, units, name))
            except Exception as error:
                hint = "" if data.batches is not None else "; where it reads gradients, give data=loader"
                raise PassError(
                    f"{type(self.importance).__name__} failed on group {name!r}: {type(error).__name__}: {error}{hint}"
                ) from error
            if scores is None:
                raise PassError(
                    f"{type(self.importance).__name__} has nothing to say of group {name!r}; protect it, or use another criterion"
                )
            found[name] = normaliser(self.normalise)(scores.detach().to(torch.float64).cpu().numpy(), len(units.weights(name)))
        return found

    def _give_gradients(self, network: Network, data: Data) -> None:
        """These objects read `.grad`; where data are given, it is the mean over them."""
        if data.batches is None:
            return
        total: dict[str, Any] = {}
        for batch in gradients(network, data, type(self.importance).__name__):
            for key, gradient in batch.items():
                total[key] = gradient if key not in total else total[key] + gradient
        for key, parameter in network.module.named_parameters(remove_duplicate=False):
            parameter.grad = total.get(key)

    def _group(self, peer: Any, units: Units, name: str) -> Any:
        """A group of theirs: for each layer, the pruning function that would act on it, and the indices of our units in it."""
        group = peer.dependency.Group()
        for place, index in units.places(name):
            module_name, _, parameter = place.member.tensor.rpartition(".")
            module = units.network.module.get_submodule(module_name)
            pruner = peer.pruner.function.PrunerBox.get(peer.ops.module2type(module))
            if parameter != "weight" or pruner is None:
                continue
            produces = place.member.axis == self._output_axis(module)
            function = pruner.prune_out_channels if produces else pruner.prune_in_channels
            node = peer.dependency.Node(module, peer.ops.module2type(module), name=module_name)
            dependency = peer.dependency.Dependency(function, function, node, node)
            indices = torch.nonzero(index >= 0).squeeze(1).tolist()
            roots = index[index >= 0].tolist()  # behind a flattened image, a unit has many indices
            group.add_dep(dependency, indices)
            group[-1].root_idxs = roots
        return group

    def _output_axis(self, module: Any) -> int:
        return 1 if isinstance(module, torch.nn.modules.conv._ConvTransposeNd) else 0
