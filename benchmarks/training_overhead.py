"""What masks cost a training step: `python benchmarks/training_overhead.py --threads 2` writes benchmarks/results/training/overhead.json.

ResNet-20, batch 128 of 32 x 32 images, SGD with momentum: forward, backward and step, dense and under each method, one step of each after
the other. Renewals of the masks are timed alone, and one in --interval steps (RigL's default: 100) is added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxsparse.models import build
from fxsparse.training import SET, SRSTE, RigL, Sparsifier, Static

RESULT = Path(__file__).resolve().parent / "results" / "training" / "overhead.json"
TOTAL = 1_000_000  # steps of the pretended run: masks are renewed all the time


def made(method: str, interval: int) -> tuple[nn.Module, torch.optim.Optimizer, Sparsifier | None]:
    model = build("fxsparse:resnet20").model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    if method == "dense":
        return model, optimizer, None
    if method == "static":
        return model, optimizer, Static(model, optimizer, 0.1)
    if method == "sr-ste":
        return model, optimizer, SRSTE(model, optimizer, steps=TOTAL, exclude=["conv1"])
    kind = RigL if method == "rigl" else SET
    return model, optimizer, kind(model, optimizer, 0.1, steps=TOTAL, interval=interval)


def renewed(sparsifier: Sparsifier) -> float:
    """Seconds of one renewal of the masks, the copy of the dense gradients included: the median of twenty."""
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        copies = [t.parameter.grad.clone() for t in sparsifier.targets if t.parameter.grad is not None]
        sparsifier.update()
        seconds.append(time.perf_counter() - began)
        del copies
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--interval", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--methods", default="static,set,rigl,sr-ste")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = torch.randn(arguments.batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,))
    methods = ["dense", *arguments.methods.split(",")]
    parts = {method: made(method, arguments.interval) for method in methods}

    def step(method: str) -> tuple[float, float]:
        """Seconds of one whole step, and of the optimizer's part of it, masks included."""
        model, optimizer, sparsifier = parts[method]
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        middle = time.perf_counter()
        (sparsifier or optimizer).step()
        end = time.perf_counter()
        return end - began, end - middle

    for method in methods:
        for _ in range(3):
            step(method)
    times: dict[str, list[float]] = {method: [] for method in methods}
    acting: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(arguments.steps):
        for method in methods:  # one step of each after the other, so that all see the same machine
            whole, own = step(method)
            times[method].append(whole)
            acting[method].append(own)
    # What is compared is the part of the step that differs, over the median of the dense step: the rest is the same work, and its noise
    # is larger than the overhead.
    dense = statistics.median(times["dense"])
    base = statistics.median(acting["dense"])
    rows: dict[str, Any] = {}
    for method in methods:
        sparsifier = parts[method][2]
        plain = statistics.median(acting[method])
        renewal = renewed(sparsifier) if sparsifier is not None and method in ("set", "rigl") else 0.0
        extra = plain - base + renewal / arguments.interval
        masks = 0 if sparsifier is None else sum(mask.untyped_storage().nbytes() for mask in sparsifier.masks.values())
        rows[method] = {
            "step_ms": 1e3 * statistics.median(times[method]),
            "optimizer_ms": 1e3 * plain,
            "renewal_ms": 1e3 * renewal,
            "overhead": extra / dense,
            "mask_bytes": masks,
            "masked_weights": 0 if sparsifier is None else sum(mask.numel() for mask in sparsifier.masks.values()),
        }
        print(method, json.dumps(rows[method]), flush=True)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "methods")}
    content = {"settings": {"model": "fxsparse:resnet20", **settings}, "torch": torch.__version__, "methods": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
