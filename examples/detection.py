"""Prune the backbone of a detection network, whose code cannot be traced as a whole, and run it. Half a minute on a CPU.

python examples/detection.py --model fasterrcnn_mobilenet_v3_large_320_fpn
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fxsparse
from fxsparse import passes
from fxsparse.models import build


@torch.no_grad()
def detections(module: nn.Module, images: list[Tensor]) -> tuple[int, float]:
    """How many boxes it finds, and in how many seconds."""
    module.eval()
    began = time.perf_counter()
    found = module(images)
    return sum(len(each["boxes"]) for each in found), time.perf_counter() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--model", default="fasterrcnn_mobilenet_v3_large_320_fpn")
    options.add_argument("--macs", type=float, default=0.7, help="the share that is left")
    options.add_argument("--size", type=int, default=160, help="of the image")
    given = options.parse_args()
    torch.manual_seed(0)

    # The network as it is without pretrained weights; nothing is downloaded. Its boxes are those of random weights.
    loaded = build(f"torchvision:{given.model}", size=given.size, batch=1, box_score_thresh=0.005, rpn_post_nms_top_n_test=50)
    net = fxsparse.trace(loaded.model, loaded.inputs)
    result = passes.Prune(macs=given.macs, only=("backbone.*",))(net)
    small = result.network
    proof = fxsparse.verify(net, small)

    images = [torch.rand(3, given.size, given.size)]
    table = Table(title=f"{given.model}, only the backbone pruned", title_justify="left")
    for name in ("network", "parameters", "MACs", "boxes", "seconds"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for name, network in (("whole", net), ("pruned", small)):
        boxes, seconds = detections(network.module, images)
        table.add_row(name, f"{network.parameter_count:,}", f"{network.macs:,}", str(boxes), f"{seconds:.2f}")
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"traced in parts: {', '.join(net.origin.islands) or 'no, as a whole'}", result.notes[0], f"proof: {proof}", sep="\n")

    small.module.train()  # it trains like the original, on the losses that it returns
    target = [{"boxes": torch.tensor([[20.0, 30.0, 90.0, 110.0]]), "labels": torch.tensor([1])}]
    losses = small.module(images, target)
    sum(losses.values()).backward()
    console.print("a training step's losses: " + ", ".join(f"{name} {float(value.detach()):.2f}" for name, value in losses.items()))


if __name__ == "__main__":
    main()
