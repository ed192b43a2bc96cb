"""What masks cost a training step: `python benchmarks/training_overhead.py --threads 2` writes benchmarks/results/training/overhead.json.

ResNet-20, 32 x 32 images, SGD with momentum: forward, backward and step, dense and under each method. All models are copies of one and take
their steps in turn, in an order that changes from round to round. Of each round we take the ratio of the masked step to the dense one, and
report the median of the ratios with its 95 % interval (by order statistics, so without any assumption on the noise). Renewals of the masks
are timed in place, and one in --interval steps is added. `--device cuda` for a GPU, where each step is waited for.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxsparse.models import build
from fxsparse.training import SET, SRSTE, Gradual, RigL, Sparsifier, Static
from fxsparse.training.results import write_json

RESULT = Path(__file__).resolve().parent / "results" / "training" / "overhead.json"
TOTAL = 1_000_000  # steps of the pretended run, so that exchange does not end
METHODS = ("static", "set", "rigl", "gradual", "sr-ste")


def made(method: str, model: nn.Module, interval: int) -> tuple[nn.Module, torch.optim.Optimizer, Sparsifier | None]:
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    if method == "dense":
        return model, optimizer, None
    if method == "static":
        return model, optimizer, Static(model, optimizer, 0.1)
    if method == "sr-ste":
        return model, optimizer, SRSTE(model, optimizer, exclude=["conv1"])
    kinds: dict[str, Any] = {"set": SET, "rigl": RigL, "gradual": Gradual}
    return model, optimizer, kinds[method](model, optimizer, 0.1, steps=TOTAL, interval=interval)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the order statistics between which it is with a probability of 95 %."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)  # 1.96 deviations of a binomial variable of probability one half
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach))
    return statistics.median(ordered), ordered[low], ordered[high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--interval", type=int, default=100, help="steps between two renewals of the masks")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    images = torch.randn(arguments.batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,), device=device)
    methods = ["dense", *arguments.methods.split(",")]
    model = build("fxsparse:resnet20").model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parts = {method: made(method, model, arguments.interval) for method in methods}

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(method: str) -> float:
        """Seconds of one whole step."""
        model, optimizer, sparsifier = parts[method]
        began = now()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        (sparsifier or optimizer).step()
        return now() - began

    def renewed(method: str) -> float:
        """Seconds of one renewal, the copy of the dense gradients included: the median of twenty."""
        sparsifier = parts[method][2]
        if sparsifier is None or not sparsifier.due(arguments.interval):
            return 0.0
        seconds = []
        for _ in range(20):
            began = now()
            copies = [t.parameter.grad.clone() for t in sparsifier.targets if t.parameter.grad is not None]
            sparsifier.update()
            seconds.append(now() - began)
            del copies
        return statistics.median(seconds)

    times: dict[str, list[float]] = {method: [] for method in methods}
    order, chance = list(methods), random.Random(0)
    for number in range(-3, arguments.rounds):
        chance.shuffle(order)
        taken = {method: step(method) for method in order}
        due = any(s is not None and s.interval > 1 and s.steps_done % s.interval == 0 for _, _, s in parts.values())
        if number >= 0 and not due:  # a step with a renewal is no usual step
            for method, seconds in taken.items():
                times[method].append(seconds)
    dense = statistics.median(times["dense"])
    rows: dict[str, Any] = {}
    for method in methods:
        sparsifier = parts[method][2]
        middle, low, high = median_interval([a / b for a, b in zip(times[method], times["dense"], strict=True)])
        renewal = 0.0 if method in ("dense", "sr-ste") else renewed(method)  # SR-STE renews in every step, and is timed with that
        share = renewal / arguments.interval / dense
        rows[method] = {
            "step_ms": 1e3 * statistics.median(times[method]),
            "renewal_ms": 1e3 * renewal,
            "overhead": middle - 1 + share,
            "interval": [low - 1 + share, high - 1 + share],
            "mask_bytes": 0 if sparsifier is None else sum(mask.untyped_storage().nbytes() for mask in sparsifier.masks.values()),
            "masked_weights": 0 if sparsifier is None else sum(mask.numel() for mask in sparsifier.masks.values()),
        }
        print(method, json.dumps(rows[method]), flush=True)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "methods")}
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    content = {"settings": {"model": "fxsparse:resnet20", **settings}, "machine": name, "torch": torch.__version__, "methods": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, content)


if __name__ == "__main__":
    main()
