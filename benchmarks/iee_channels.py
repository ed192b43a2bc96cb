"""IEE of channels to half the latency, against other ways to prune: `python benchmarks/iee_channels.py --data DATA --scheme iee --seed 0`.

A run trains one network with SGD (Nesterov momentum 0.9, weight decay 5e-4, batch 128, flips and crops, a cosine to 0, bf16 autocast, one
thread) and writes one small file into benchmarks/results/iee/channels. It is not repeated while the file is there; killed, it goes on from its
last checkpoint under --work.

`--scheme` says how the network becomes small: `dense` (not at all), `one-shot`, `iterative` (with --criterion bn-taylor and the latency
knapsack this is HALP's scheme: prune along an exponential, then fine-tune), or `iee`. `--start` says from what: `scratch`, a weights file, or
`own`, what the run of scheme `dense` with the same --seed and --pretraining epochs left under --work. So `dense`, then `iterative` from `own`,
is pretraining with HALP's prune-and-fine-tune, and `iee` from `scratch` is what it is compared with: the cost of training counts all steps,
forward, backward and exploring, in multiply-accumulates and in processor seconds of the steps alone.

`--latency` measures all networks again, one after the other on a machine that should be quiet. `--table` writes docs/iee.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import fxsparse
from fxsparse.engines import compare, engine, ratio
from fxsparse.models import build
from fxsparse.training import Callback, ExploitExploreChannels, Recipe, Trainer
from fxsparse.training.data_folder import default_cache
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "iee" / "channels", ROOT / "docs" / "iee.md"
SCHEMES: dict[str, dict[str, Any]] = {
    "dense": {},
    "one-shot": {"cycles": 0, "growth": 0.0, "explore": 0, "estimate": 50},
    "iterative": {"cycles": 20, "ramp": 0.4, "stop": 0.45, "growth": 0.0, "explore": 0, "estimate": 10},
    "iee": {"cycles": 8, "ramp": 0.3, "stop": 0.5, "growth": 0.2, "explore": 10, "estimate": 10, "grace": True},
}
EARLY = {"ramp": 0.02, "stop": 0.6, "estimate": 20}  # from scratch there is nothing to lose by being small at once


class Clock(Callback):
    """Processor seconds of the steps alone: forward, backward, the optimizer, and all that the method does."""

    def __init__(self) -> None:
        self.seconds, self.began = 0.0, 0.0

    def before_step(self, trainer: Trainer) -> None:
        self.began = time.process_time()

    def after_step(self, trainer: Trainer) -> None:
        self.seconds += time.process_time() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        self.seconds = float(state["seconds"])


def name_of(arguments: argparse.Namespace) -> str:
    """One name for one setting."""
    start = arguments.start if arguments.start in ("scratch", "own") else "pretrained"
    parts = [arguments.model, arguments.scheme]
    if arguments.scheme != "dense":
        parts += [arguments.criterion, f"{arguments.part:g}", start + (f"{arguments.pretraining}e" if start == "own" else "")]
    return "-".join([*parts, f"{arguments.epochs}e", *arguments.option, f"seed{arguments.seed}"])


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    weights = None if arguments.start == "scratch" else arguments.start
    if arguments.start == "own":
        pretrained = f"{arguments.model}-dense-{arguments.pretraining}e-seed{arguments.seed}"
        weights = str(arguments.work / "iee" / pretrained / "weights.safetensors")
    options: dict[str, Any] = {}
    if arguments.scheme != "dense":
        options = {"latency": arguments.part, "criterion": arguments.criterion, **SCHEMES[arguments.scheme]}
        if arguments.start == "scratch" and arguments.scheme == "iee":
            options |= EARLY
        options |= tomllib.loads("\n".join(arguments.option))
    return Recipe(
        model=f"fxsparse:{arguments.model}",
        data=str(arguments.data),
        weights=weights,
        method="dense" if arguments.scheme == "dense" else "iee-channels",
        options=options,
        epochs=arguments.epochs,
        lr=arguments.lr if arguments.lr is not None else (0.1 if arguments.start == "scratch" else 0.02),
        precision="bf16",
        seed=arguments.seed,
        threads=1,
        cache=str(arguments.cache or arguments.work),
        checkpoint_every=200,
    )


def train(arguments: argparse.Namespace) -> None:
    name = name_of(arguments)
    target = arguments.results / f"{name}.json"
    if target.exists():
        print(f"{name}: there already", flush=True)
        return
    recipe, clock = recipe_of(arguments), Clock()
    trainer = Trainer(recipe, arguments.work / "iee" / name, callbacks=[clock])
    result = trainer.run(resume=True)
    settings = {key: value for key, value in recipe.to_plain().items() if key not in ("data", "cache", "device", "threads", "weights")}
    start = arguments.start if arguments.start in ("scratch", "own") else "pretrained"
    made: dict[str, Any] = {"name": name, "scheme": arguments.scheme, "start": start, "pretraining": arguments.pretraining}
    made |= {"settings": settings, **result.to_dict(), "step_seconds": clock.seconds}
    sparsifier = trainer.sparsifier
    if isinstance(sparsifier, ExploitExploreChannels):
        small = sparsifier.at_rest()
        made |= {
            "macs": small.macs,
            "widths": {group.name: len(group.units) for group in small.groups if group.prunable},
            "regret": sparsifier.timeline.regret,
            "timeline": list(sparsifier.timeline.rows()),
        }
        made |= {"latency": latency(arguments.model, made["widths"])}
    made |= {"versions": {"fxsparse": fxsparse.__version__, "torch": torch.__version__, "python": platform.python_version()}}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, made)
    print(f"{name}: {result.accuracy:.2%} after {result.steps} steps, {clock.seconds:.0f} s of processor time in steps", flush=True)


def latency(model: str, widths: Mapping[str, int]) -> dict[str, Any]:
    """Measured on ONNX Runtime, one thread, batch 1, in turn with the dense network; the widths are all that matters."""
    inputs = torch.randn(1, 3, 32, 32)
    dense = fxsparse.trace(build(f"fxsparse:{model}", seed=0).model.eval(), inputs)
    small = dense.shrink({name: list(range(width)) for name, width in widths.items()})
    onnx = engine("onnxruntime", threads=1)
    timed = compare({key: onnx.build(net.module, (inputs,)).prepare() for key, net in (("dense", dense), ("small", small))}, seconds=2.0)
    share = ratio(timed["small"], timed["dense"])
    return {
        "ms": timed["small"].median,
        "dense_ms": timed["dense"].median,
        "part": share.value,
        "interval": [share.low, share.high],
    }


# ---- tables ---------------------------------------------------------------------------------------------------------------------


def spread(values: list[float], form: str = ".2f") -> str:
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)):{form}}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> str:
    """The mean difference over common seeds, with the 95 % interval of a paired t-test."""
    from benchmarks.sparse_training import compared

    return compared("", dict(ours), "", dict(theirs)).removeprefix(" - : ")


if __name__ == "__main__":
    pass
