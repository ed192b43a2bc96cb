"""Take attention heads and MLP channels out of a vision transformer of timm's, and fine-tune it on digits. A minute on a CPU.

python examples/timm_vit.py --macs 0.5
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fxsparse
from fxsparse import passes
from fxsparse.models import build

HEADS_AND_MLPS = ("*/heads", "*.mlp.fc1")  # not the residual stream, and not the channels inside a head


def fit(model: nn.Module, images: Tensor, classes: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    model.train()
    for _ in range(steps):
        some = torch.randint(len(images), (100,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[some]), classes[some]).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    return float((model.eval()(images).argmax(1) == classes).float().mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--macs", type=float, default=0.5, help="the share that is left")
    options.add_argument("--steps", type=int, default=200, help="of training; half as many of fine-tuning")
    given = options.parse_args()
    torch.manual_seed(0)

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 8 - 1
    classes = torch.tensor(found.target)
    shape: dict[str, Any] = {"img_size": 8, "patch_size": 2, "embed_dim": 96, "depth": 4, "num_heads": 6}
    model = build("timm:vit_tiny_patch16_224", num_classes=10, **shape).model  # the architecture alone: nothing is downloaded
    fit(model, images[300:], classes[300:], given.steps, lr=1e-3)

    net = fxsparse.trace(model, images[:1])
    result = passes.Prune(macs=given.macs, criterion="taylor", only=HEADS_AND_MLPS)(net, data=[(images[300:500], classes[300:500])])
    small = result.network
    before = accuracy(net.module, images[:300], classes[:300]), accuracy(small.module, images[:300], classes[:300])
    fit(small.module, images[300:], classes[300:], given.steps // 2, lr=5e-4)

    table = Table(title="units of each block", title_justify="left")
    for name in ("group", "kind", "before", "after"):
        table.add_column(name, justify="left" if name in ("group", "kind") else "right")
    for group in net.groups:
        if group.prunable and len(small.group(group.name).units) < len(group.units):
            table.add_row(group.name, group.kind, str(len(group.units)), str(len(small.group(group.name).units)))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"MACs {net.macs:,} -> {small.macs:,}, parameters {net.parameter_count:,} -> {small.parameter_count:,}")
    console.print(f"accuracy {before[0]:.1%}, pruned {before[1]:.1%}, fine-tuned {accuracy(small.module, images[:300], classes[:300]):.1%}")
    console.print(f"proof: {fxsparse.verify(net, small)}")


if __name__ == "__main__":
    main()
