"""Make an LSTM smaller: which symbol came most often in a sequence? Half a minute on a CPU.

python examples/lstm.py --parameters 0.3
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxsparse
from fxsparse import passes

SYMBOLS, LENGTH = 6, 20


class Reader(nn.Module):
    def __init__(self, embed: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, embed)
        self.lstm = nn.LSTM(embed, hidden, batch_first=True)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.embed(x))
        scores: Tensor = self.head(self.norm(last[-1]))
        return scores


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """Random symbols, and the one that came most often (the least of several)."""
    x = torch.randint(SYMBOLS, (count, LENGTH))
    return x, F.one_hot(x, SYMBOLS).sum(1).argmax(1)


def fit(model: nn.Module, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        x, y = sequences(100)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == y).float().mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--parameters", type=float, default=0.3, help="the share that is left")
    options.add_argument("--steps", type=int, default=800, help="of training; half as many of fine-tuning")
    given = options.parse_args()
    torch.manual_seed(0)

    model = Reader()
    fit(model, given.steps, lr=3e-3)
    x, y = sequences(1000)
    net = fxsparse.trace(model, x[:2])
    small = passes.Prune(parameters=given.parameters, criterion="magnitude")(net).network

    table = Table(title="an LSTM that counts", title_justify="left")
    for name in ("network", "embedding", "hidden", "parameters", "accuracy"):
        table.add_column(name, justify="left" if name == "network" else "right")

    def row(name: str, network: fxsparse.Network) -> None:
        lstm = network.module.get_submodule("lstm")
        sizes = str(lstm.input_size), str(lstm.hidden_size)
        table.add_row(name, *sizes, f"{network.parameter_count:,}", f"{accuracy(network.module, x, y):.1%}")

    row("trained", net)
    row("pruned", small)
    fit(small.module, given.steps // 2, lr=1e-3)
    row("pruned, fine-tuned", small)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"proof: {fxsparse.verify(net, small)}")


if __name__ == "__main__":
    main()
