"""A network with an operator that fxsparse has never seen: protected at first, with the reason; one line teaches it. Seconds on a CPU.

python examples/custom_operator.py
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxsparse
from fxsparse import passes


@torch.library.custom_op("example::gated", mutates_args=())
def gated(x: Tensor, strength: Tensor) -> Tensor:
    """Each channel times the sigmoid of its strength."""
    return x * strength.sigmoid()[:, None, None]


@gated.register_fake
def _(x: Tensor, strength: Tensor) -> Tensor:
    return torch.empty_like(x)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.strength = nn.Parameter(torch.zeros(2 * width))
        self.back = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.back(gated(self.conv(x), self.strength))
        return x + inner


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Gated(width), Gated(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return scores


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--macs", type=float, default=0.5, help="the share that is left")
    given = options.parse_args()
    torch.manual_seed(0)
    console, example = Console(soft_wrap=True), torch.randn(1, 3, 16, 16)

    table = Table(title="may these groups lose units?", title_justify="left")
    for name in ("group", "without a rule", "with a rule"):
        table.add_column(name)
    model = Net(given.width)
    before = fxsparse.trace(model, example)
    fxsparse.register_rule("example::gated", "(n, c, …), (c) -> (n, c, …)")
    net = fxsparse.trace(model, example)
    for group in net.groups:
        if group.prunable:
            old = before.group(group.name)
            table.add_row(group.name, "yes" if old.prunable else old.reason, "yes")
    console.print(table)

    result = passes.Prune(macs=given.macs)(net)
    console.print(result.notes[0])
    left = [len(parameter) for name, parameter in result.network.module.named_parameters() if name.endswith("strength")]
    console.print(f"strengths left: {left}")
    console.print(f"proof: {fxsparse.verify(net, result.network)}")


if __name__ == "__main__":
    main()
