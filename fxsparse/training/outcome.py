"""What a run is for: the network without anything that only its training needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fxsparse.network import Network
from fxsparse.passes.unshare_weights import UnshareWeights
from fxsparse.sparsity.counting import Profile, nonzeros, profile
from fxsparse.sparsity.targets import unwrapped
from fxsparse.training.east.parts import finished, own_parameters
from fxsparse.training.iee import ExploitExploreChannels

if TYPE_CHECKING:
    from fxsparse.training.trainer import Trainer


@dataclass(frozen=True)
class Outcome:
    """`module` has each shared weight once, and is what is counted. `weights` have the names of the recipe's model. `network` is there
    where the model has changed more than its weights, and is what `fxsparse.load` reads again."""

    module: nn.Module
    weights: Mapping[str, Tensor]
    network: Network | None
    dyrelu_parameters: int  # dense ones, which were trained and are gone

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def nonzeros(self) -> dict[str, int]:
        return nonzeros(self.module)

    def macs(self, example: Tensor) -> int:
        """Of one image, without the multiplications by zero."""
        costs: Profile = profile(self.module, example)
        return costs.macs(self.nonzeros())


def outcome_of(trainer: Trainer, resting: nn.Module) -> Outcome:
    """The averaged copy where there is one, else what was trained (`resting`); sparse or small, without DyReLUs, with unshared weights."""
    sparsifier, average = trainer.sparsifier, trainer.average
    values = (resting if average is None else unwrapped(average)).state_dict()
    if isinstance(sparsifier, ExploitExploreChannels):
        network, masks = sparsifier.at_rest(), {}
    elif trainer.network is None:
        return Outcome(resting if average is None else unwrapped(average), values, None, 0)
    else:
        network, masks = trainer.network, {} if sparsifier is None else dict(sparsifier.masks)
    network = network.with_living(network.living)
    with torch.no_grad():
        network.module.load_state_dict(values)
    made = finished(network, masks)
    alone = UnshareWeights()(made).network
    return Outcome(made.module, alone.module.state_dict(), replace(alone, journal=made.journal), own_parameters(network.module))
