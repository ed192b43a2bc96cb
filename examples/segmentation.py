"""Train a segmentation network on drawn circles, prune it to half its MACs, and fine-tune it. A minute on a CPU.

python examples/segmentation.py --macs 0.5
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
from fxsparse.models import build


def circles(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Noisy images with a bright circle in each, and which pixels belong to it."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre, radius = torch.rand(count, 2, 1, 1) * size, (0.15 + 0.2 * torch.rand(count, 1, 1)) * size
    inside = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2 < radius**2
    return inside[:, None].float() + 0.5 * torch.randn(count, 3, size, size), inside.long()


def fit(model: nn.Module, steps: int, size: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        images, masks = circles(8, size)
        optimizer.zero_grad()
        F.cross_entropy(model(images)["out"], masks).backward()
        optimizer.step()


@torch.no_grad()
def overlap(model: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Intersection over union of the circles."""
    said = model.eval()(images)["out"].argmax(1) == 1
    return float((said & (masks == 1)).sum() / (said | (masks == 1)).sum())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--model", default="lraspp_mobilenet_v3_large")
    options.add_argument("--macs", type=float, default=0.5, help="the share that is left")
    options.add_argument("--steps", type=int, default=100, help="of training; half as many of fine-tuning")
    options.add_argument("--size", type=int, default=64)
    given = options.parse_args()
    torch.manual_seed(0)

    model = build(f"torchvision:{given.model}", num_classes=2).model  # no weights are downloaded
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # the model's own 0.01 is for long runs
    fit(model, given.steps, given.size, lr=2e-3)
    images, masks = circles(32, given.size)

    net = fxsparse.trace(model, images[:1])
    small = passes.Prune(macs=given.macs, align=4)(net).network
    table = Table(title=f"{given.model} on circles", title_justify="left")
    for name in ("network", "parameters", "MACs", "overlap"):
        table.add_column(name, justify="left" if name == "network" else "right")
    table.add_row("trained", f"{net.parameter_count:,}", f"{net.macs:,}", f"{overlap(net.module, images, masks):.1%}")
    table.add_row("pruned", f"{small.parameter_count:,}", f"{small.macs:,}", f"{overlap(small.module, images, masks):.1%}")
    fit(small.module, given.steps // 2, given.size, lr=1e-3)
    table.add_row("fine-tuned", f"{small.parameter_count:,}", f"{small.macs:,}", f"{overlap(small.module, images, masks):.1%}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"proof: {fxsparse.verify(net, small)}")


if __name__ == "__main__":
    main()
