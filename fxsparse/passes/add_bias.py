"""The pass `add-bias`: layers without a bias get one of zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fxsparse.errors import PassError
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.surgery.plan import nearest


@dataclass(frozen=True)
class AddBias(Pass):
    """Give layers that have no bias one of zeros.

    `modules` names convolutions and linear layers. `eliminate-dead-channels` uses it to have a place for constants.

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
        for name in self.modules:
            layer: Any = module.get_submodule(name)
            size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            zeros = torch.zeros(size, dtype=layer.weight.dtype, device=layer.weight.device)
            layer.bias = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)
