"""The pass `unshare-weights`: every convolution gets a weight of its own again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.equality import require_same_function
from fxsparse.passes.stages import SCALE
from fxsparse.surgery.graphs import graphs


@dataclass(frozen=True)
class UnshareWeights(Pass):
    """Give each convolution that uses another's weight, by `share-weights`, a copy of it, multiplied by its `scale`, which goes.

    Assumes nothing. Guarantees the same function, and the names of the state dict as they were before `share-weights`. The copies have the
    masks of what they are copies of.

    Example: `share-weights,unshare-weights`
    """

    name: ClassVar[str] = "unshare-weights"

    def run(self, network: Network, context: Context) -> PassResult:
        sharing = sharers(network.module)
        if not sharing:
            return PassResult(network, False, ("no convolution uses another's weight by share-weights",))
        aliases = network.origin.structure.reading.aliases
        donors = {f"{name}.weight": aliases.get(f"{name}.weight", f"{name}.weight") for name in sharing}
        made = network.edited(unshare, str(self))
        masks = {**made.masks, **_copied(made.masks, donors)}
        journal = replace(made.journal, masks={**made.journal.masks, **_copied(made.journal.masks, donors)})
        made = replace(made, masks=masks, journal=journal)
        return PassResult(made, True, (f"{len(sharing)} convolutions have a weight of their own again",))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified:
            require_same_function(self.name, network, result.network)


def sharers(module: nn.Module) -> list[str]:
    """The convolutions that use another's weight, with a scale."""
    return [name for name, each in module.named_modules() if isinstance(each, _ConvNd) and SCALE in each._parameters]


def unshare(module: nn.Module) -> None:
    """Change a traced module in place."""
    for place in graphs(module):
        for node in list(place.graph.nodes):
            if node.op == "get_attr" and str(node.target).rpartition(".")[2] == SCALE:
                conv = place.owner.get_submodule(str(node.target).rpartition(".")[0])
                if isinstance(conv, _ConvNd) and SCALE in conv._parameters:
                    for product in list(node.users):
                        product.replace_all_uses_with(product.args[0])
                        place.graph.erase_node(product)
                    place.graph.erase_node(node)
    with torch.no_grad():
        for name in sharers(module):
            conv_: Any = module.get_submodule(name)
            scale = conv_._parameters.pop(SCALE)
            old = conv_._parameters["weight"]
            conv_._parameters["weight"] = nn.Parameter(old.detach() * scale, requires_grad=old.requires_grad)
            if conv_.bias is not None:
                conv_.bias = nn.Parameter(conv_.bias.detach() * scale, requires_grad=conv_.bias.requires_grad)


def _copied(masks: Mapping[str, Tensor], donors: Mapping[str, str]) -> dict[str, Tensor]:
    return {key: masks[donor].clone() for key, donor in donors.items() if donor in masks}
