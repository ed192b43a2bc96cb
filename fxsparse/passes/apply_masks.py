"""The pass `apply-masks`: masked weights become plain zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fxsparse.errors import PassError, VerificationError
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.sparsity.masks import apply


@dataclass(frozen=True)
class ApplyMasks(Pass):
    """Write zeros where the masks say so, and forget the masks.

    The weights that an optimizer without masks has brought back are zero again. With `keep`, the masks stay beside the module.

    Assumes a network that has masks.

    Guarantees that every masked weight is exactly zero, and that nothing else changes.

    Example: `mask{sparsity=0.9},apply-masks`
    """

    name: ClassVar[str] = "apply-masks"
    keep: bool = False

    def requires(self, network: Network, context: Context) -> None:
        if not network.masks:
            raise PassError(f"{self.name} finds no masks on the network; make some with the pass mask, or set Network.masks")

    def run(self, network: Network, context: Context) -> PassResult:
        parameters = dict(network.module.named_parameters(remove_duplicate=False))
        alive = sum(int(torch.count_nonzero(parameters[key].detach()[~mask])) for key, mask in network.masks.items())
        made = masked(network, network.masks)
        if not self.keep:
            made = replace(made, masks={}, journal=replace(made.journal, masks={}))
        total = sum(int((~mask).sum()) for mask in network.masks.values())
        return PassResult(made, True, (f"{total:,} weights are masked; {alive:,} of them were not zero",))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        require_zeros(self.name, result.network, network.masks)


def masked(network: Network, masks: Mapping[str, Tensor]) -> Network:
    """A copy of the network under these masks: what they hide is zero. The masks that it had for other tensors stay."""
    made = network.with_living(network.living)
    with torch.no_grad():
        for key, mask in masks.items():
            apply(mask, made.module.get_parameter(key).detach())
    return replace(made, masks={**made.masks, **masks})


def require_zeros(name: str, network: Network, masks: Mapping[str, Tensor]) -> None:
    """Raise where a masked weight is not zero."""
    for key, mask in masks.items():
        if bool(torch.count_nonzero(network.module.get_parameter(key).detach()[~mask])):
            raise VerificationError(f"{name} left masked weights of {key} that are not zero; this is an error in the pass")
