"""Prune a torchvision classifier to half its MACs and fine-tune it, on scikit-learn's digits. A minute on a CPU.

python examples/torchvision_classification.py --model resnet18 --macs 0.5
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fxsparse
from fxsparse import passes
from fxsparse.models import build


def digits(size: int, count: int) -> tuple[Tensor, Tensor]:
    """So many images as three-channel squares, and their classes."""
    found = load_digits()
    chosen = torch.randperm(len(found.images), generator=torch.Generator().manual_seed(0))[:count]
    images = torch.tensor(found.images, dtype=torch.float32)[chosen, None] / 8 - 1
    return F.interpolate(images, size=(size, size)).expand(-1, 3, -1, -1), torch.tensor(found.target)[chosen]


def train(model: nn.Module, images: Tensor, classes: Tensor, epochs: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for some in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images[some]), classes[some]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    return float((model.eval()(images).argmax(1) == classes).float().mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--model", default="resnet18")
    options.add_argument("--macs", type=float, default=0.5, help="the share that is left")
    options.add_argument("--size", type=int, default=32)
    options.add_argument("--images", type=int, default=1200)
    options.add_argument("--epochs", type=int, default=3)
    given = options.parse_args()
    torch.manual_seed(0)

    images, classes = digits(given.size, given.images)
    held = len(images) // 5  # for the accuracy
    model = build(f"torchvision:{given.model}", num_classes=10).model  # no weights are downloaded
    train(model, images[held:], classes[held:], given.epochs, lr=1e-3)

    net = fxsparse.trace(model, images[:1])
    result = passes.Prune(macs=given.macs, criterion="magnitude", align=4)(net)
    small = result.network
    proof = fxsparse.verify(net, small)

    table = Table(title=f"{given.model} on digits", title_justify="left")
    for name in ("network", "parameters", "MACs", "accuracy"):
        table.add_column(name, justify="left" if name == "network" else "right")

    def row(name: str, network: fxsparse.Network) -> None:
        right = accuracy(network.module, images[:held], classes[:held])
        table.add_row(name, f"{network.parameter_count:,}", f"{network.macs:,}", f"{right:.1%}")

    row("trained", net)
    row("pruned", small)
    train(small.module, images[held:], classes[held:], max(given.epochs // 2, 1), lr=3e-4)
    row("pruned, fine-tuned", small)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(result.notes[0], f"proof: {proof}", sep="\n")


if __name__ == "__main__":
    main()
