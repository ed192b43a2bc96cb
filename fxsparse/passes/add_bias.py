"""The pass `add-bias`: layers without a bias get one of zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fxsparse.errors import PassError, nearest
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.layer_calls import give_bias, layers_of, uncalled, zeros_for


@dataclass(frozen=True)
class AddBias(Pass):
    """Give layers that have no bias one of zeros.

    `modules` names convolutions and linear layers, whether the graph calls the module or a function with its weight.
    `eliminate-dead-channels` uses it to have a place for constants.

    Assumes nothing. Guarantees the same function, bit for bit but for the sign of zeros; the state dict gets the new names.

    Example: `add-bias{modules=[layer1.0.conv1]}`
    """

    name: ClassVar[str] = "add-bias"
    modules: tuple[str, ...] = ()

    def requires(self, network: Network, context: Context) -> None:
        layers = {name: each for name, each in network.module.named_modules() if isinstance(each, (_ConvNd, nn.Linear))}
        for name in self.modules:
            if name not in layers:
                raise PassError(f"{self.name}: there is no convolution or linear layer {name!r}{nearest(name, layers)}")
            if layers[name]._parameters.get("bias", 0) is not None:
                raise PassError(f"{self.name}: {name} has a bias already")

    def run(self, network: Network, context: Context) -> PassResult:
        if not self.modules:
            return PassResult(network, False, ("no layer is named",))
        made = network.edited(self._add, str(self))
        return PassResult(made, True, (f"{len(self.modules)} layers have got a bias: {', '.join(self.modules)}",))

    def _add(self, module: nn.Module) -> None:
        called = layers_of(module)
        for name in self.modules:
            layer = called.get(name) or uncalled(module, name)
            give_bias(module, layer, zeros_for(module, layer))
