"""The pass `phase-dyrelu`: how much of DyReLU is left, from 1 to 0, where it is a plain ReLU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fxsparse.errors import PassError
from fxsparse.models.dyrelu import DyReLU
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult

HOLDER = "dyrelu"  # the child of a traced module that holds its DyReLUs


@dataclass(frozen=True)
class PhaseDyrelu(Pass):
    """Set the buffer `beta` of all DyReLUs: 1 is DyReLU, 0 is ReLU.

    A training run sets it step by step with `set_beta`, or lets `fxsparse.training.Extreme` do it.

    Assumes a network with DyReLUs. Guarantees that nothing but the buffers changes, in a network of its own.

    Example: `phase-dyrelu{beta=0.5}`
    """

    name: ClassVar[str] = "phase-dyrelu"
    beta: float = 0.0

    def requires(self, network: Network, context: Context) -> None:
        if not 0 <= self.beta <= 1:
            raise PassError(f"{self.name}: beta is between 0 and 1, not {self.beta}")
        if not any(True for _ in dyrelus(network.module)):
            raise PassError(f"{self.name}: the network has no DyReLU; insert some with insert-dyrelu")

    def run(self, network: Network, context: Context) -> PassResult:
        before = {float(each.beta) for _, each in dyrelus(network.module)}
        if before == {float(torch.tensor(self.beta))}:
            return PassResult(network, False, (f"beta is {self.beta:g} already",))
        made = network.with_living(network.living)
        for _, each in dyrelus(made.module):
            each.beta = torch.full_like(each.beta, self.beta)
        count = sum(1 for _ in dyrelus(made.module))
        return PassResult(made, True, (f"beta of {count} DyReLUs is {self.beta:g}",))


def dyrelus(module: nn.Module) -> Iterator[tuple[str, DyReLU]]:
    """All DyReLUs of a model, by name."""
    for name, each in module.named_modules():
        if isinstance(each, DyReLU):
            yield name, each


def set_beta(module: nn.Module, beta: float) -> int:
    """Set `beta` of all DyReLUs of a model in place; returns how many there are."""
    count = 0
    for _, each in dyrelus(module):
        each.beta.fill_(beta)
        count += 1
    return count
