"""The pass `recalibrate-batch-norm`: the running statistics of batch norms, taken anew from data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fxsparse.criteria.batches import inputs_of, outputs_of
from fxsparse.errors import PassError, VerificationError
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.batch_norms import BatchNorm
from fxsparse.passes.equality import require_values


@dataclass(frozen=True)
class RecalibrateBatchNorm(Pass):
    """Take the running statistics of all batch norms anew from data.

    Forgets the old statistics and averages those of the batches, each batch counting the same. `batches` takes that many of them; 0 takes
    all. Needs data: `pass_(network, data=loader)`, with batches of inputs, or of (inputs, targets).

    Assumes that batches are drawn like those of training, and are not small. Norms that the traced code calls as functions keep theirs.

    Guarantees that nothing but the norms' running mean, running variance and count of batches changes. Dropout stays off meanwhile.

    Example: `recalibrate-batch-norm{batches=100}`
    """

    name: ClassVar[str] = "recalibrate-batch-norm"
    batches: int = 0

    def requires(self, network: Network, context: Context) -> None:
        if self.batches < 0:
            raise PassError(f"{self.name}: batches is a number from 0 (all of them) on, not {self.batches}")
        require_values(self.name, network)
        if context.data is None:
            raise PassError(f"{self.name} needs data: pass batches, as in pass_(network, data=loader), or --data on the command line")
        if not norms(network.module):
            raise PassError(f"{self.name} finds no batch norm with running statistics in {network.origin.original.__name__}")

    def run(self, network: Network, context: Context) -> PassResult:
        assert context.data is not None
        made = network.with_living(network.living)
        count = _estimate(made.module, itertools.islice(context.data, self.batches or None))
        return PassResult(made, True, (f"{len(norms(made.module))} batch norms have seen {count} batches",))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        before, after = network.module.state_dict(), result.network.module.state_dict()
        own = {key for name in norms(network.module) for key in (f"{name}.{each}" for each in STATISTICS)}
        changed = [key for key, tensor in after.items() if key not in own and not torch.equal(tensor, before[key])]
        if changed:
            raise VerificationError(f"{self.name} changed {changed[0]}; this is an error in the pass")
        wrong = [key for key in own if key in after and not bool(after[key].isfinite().all())]
        if wrong:
            raise VerificationError(f"{sorted(wrong)[0]} is not finite after the pass; look for nan and infinity in the data")


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def norms(module: nn.Module) -> dict[str, Any]:
    """Batch norms that keep statistics, by name."""
    return {name: each for name, each in module.named_modules() if isinstance(each, BatchNorm) and each.running_mean is not None}


def _estimate(module: nn.Module, data: Iterable[Any]) -> int:
    """Run the batches with only the norms in train mode; the number of batches."""
    modes = {name: each.training for name, each in module.named_modules()}
    found = norms(module)
    momenta = {name: norm.momentum for name, norm in found.items()}
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    module.eval()
    for norm in found.values():
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.training = True
    count = 0
    with torch.no_grad():
        for batch in data:
            args = tree_map_only(Tensor, lambda t: t.to(device), inputs_of(batch))
            outputs_of(module, args)
            count += 1
    for name, norm in found.items():
        norm.momentum = momenta[name]
    for name, mode in modes.items():
        module.get_submodule(name).training = mode
    if not count:
        raise PassError(f"{RecalibrateBatchNorm.name} got no batch: the data is empty; an iterator can be read only once")
    return count
