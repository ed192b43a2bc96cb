"""The pass `remove-dyrelu`: DyReLUs that have faded become plain ReLUs again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from fxsparse.errors import PassError
from fxsparse.models.dyrelu import DyReLU
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.equality import require_same_function
from fxsparse.passes.phase_dyrelu import HOLDER, dyrelus
from fxsparse.surgery.graphs import graphs


@dataclass(frozen=True)
class RemoveDyrelu(Pass):
    """Put a plain ReLU where a DyReLU was inserted and has faded, and drop the DyReLU with its parameters.

    Assumes that `insert-dyrelu` put them there and that every beta is 0, which is checked unless `check` is false. Guarantees the same
    outputs, bit for bit.

    Example: `phase-dyrelu{beta=0.0},remove-dyrelu`
    """

    name: ClassVar[str] = "remove-dyrelu"
    check: bool = True

    def requires(self, network: Network, context: Context) -> None:
        for name, each in dyrelus(network.module):
            if self.check and not each.beta.is_meta and float(each.beta) != 0:
                raise PassError(f"{self.name}: beta of {name} is {float(each.beta):g}; set it to 0 first, with phase-dyrelu{{beta=0.0}}")

    def run(self, network: Network, context: Context) -> PassResult:
        count = sum(HOLDER in name.split(".") for name, _ in dyrelus(network.module))
        if not count:
            return PassResult(network, False, ("the network has no inserted DyReLU",))
        made = network.edited(remove, str(replace(self, check=False)))  # where it is repeated, on loading, no DyReLU has faded
        return PassResult(made, True, (f"{count} DyReLUs became ReLUs",))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified and self.check:
            require_same_function(self.name, network, result.network)


def remove(module: nn.Module) -> None:
    """Change a traced module in place: its graphs, and its children. `recompile` its parts afterwards."""
    owners = []
    for place in graphs(module):
        for node in list(place.graph.nodes):
            if node.op == "call_module" and str(node.target).split(".")[0] == HOLDER and isinstance(place.module_of(node), DyReLU):
                with place.graph.inserting_after(node):
                    made = place.graph.call_function(torch.relu, (node.args[0],))
                node.replace_all_uses_with(made)
                place.graph.erase_node(node)
        owners.append(place.owner)
    for owner in owners:
        owner._modules.pop(HOLDER, None)
