"""Choices of IEE compared on CIFAR-10: `python benchmarks/iee.py DATA QUEUE.json --results RESULTS.json`.

A queue is a JSON list of {"name": ..., "method": ..., "options": {...}, "epochs": 7, "lr": 0.1, "seed": 0, "half": false, "weights": null}.
Every entry trains ResNet-20 with SGD, and is judged after its last epoch, by default on a tenth of the training images that it never saw;
with --test on the test images, after training on all others. With `half`, images are averaged down to 16 x 16, which makes a step four
times as cheap. `weights` is a state dict to start from. The method `channels` is IEE of channels, all others mask weights. Results are
written as they come; what is there already is not run again. Without DATA and QUEUE.json, the results are printed as a table, and with
--table all of them are written into docs/iee.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from document import rows, write_between
from seeds import NOTE, compared, spread

import fxsparse
from fxsparse.engines import compare, engine, ratio
from fxsparse.models.cifar_resnet import resnet20
from fxsparse.models.weights import load_weights
from fxsparse.sparsity.counting import Meter, profile
from fxsparse.training.augment import Augment, Normalise
from fxsparse.training.data import Batches, Data, load_data
from fxsparse.training.iee import ExploitExplore, ExploitExploreChannels
from fxsparse.training.rates import Rate
from fxsparse.training.registry import make_sparsifier
from fxsparse.training.sparsifier import Sparsifier

RESULTS = Path(__file__).parent / "results" / "iee"
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "iee.md"
BATCH, LR = 128, 0.1


def run(data: Data, entry: dict[str, Any]) -> dict[str, Any]:
    """Train one entry of the queue, and say how well it does on images that it never saw."""
    seed, epochs, half, lr = entry.get("seed", 0), entry.get("epochs", 7), entry.get("half", False), entry.get("lr", LR)
    torch.manual_seed(seed)
    model: torch.nn.Module = resnet20()
    if entry.get("weights"):
        load_weights(model, Path(entry["weights"]))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = torch.zeros(1, 3, 16 if half else 32, 16 if half else 32)
    network = fxsparse.trace(model, inputs) if entry["method"] == "channels" else None
    optimizer = torch.optim.SGD(
        (model if network is None else network.module).parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    batches = Batches(data.train, BATCH, seed, Augment())
    steps = epochs * len(batches)
    options = entry.get("options", {})
    sparsifier: Sparsifier | ExploitExploreChannels | None
    if network is None:
        sparsifier = method(entry["method"], model, optimizer, steps, {"seed": seed, **options})
    else:
        sparsifier = ExploitExploreChannels(network, optimizer, steps=steps, **options)
    rate, normalise, meter = Rate("cosine", steps), Normalise(), Meter()
    costs, step, curve, training = profile(model, inputs), 0, [], 0.0

    def images(pixels: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(normalise(pixels), 2) if half else normalise(pixels)

    for epoch in range(epochs):
        began = time.process_time()
        for pixels, labels in batches.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(step)
            if isinstance(sparsifier, ExploitExploreChannels):
                model = sparsifier.model
            model.train()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images(pixels)), labels)
            optimizer.zero_grad()
            loss.backward()
            if isinstance(sparsifier, Sparsifier):
                exploring = isinstance(sparsifier, ExploitExplore) and sparsifier.exploring
                meter.step(costs, BATCH, sparsifier.nonzeros, sparsifier.dense_gradients, exploring)
            elif sparsifier is None:
                meter.step(costs, BATCH, None)
            (optimizer if sparsifier is None else sparsifier).step()
            step += 1
        training += time.process_time() - began
        final = model if not isinstance(sparsifier, ExploitExploreChannels) else sparsifier.at_rest().module
        curve.append(accuracy(final, data, images))
    result = {"accuracy": curve[-1], "curve": curve, "steps": steps, "seconds": round(training, 1)}
    if isinstance(sparsifier, ExploitExploreChannels):
        spent = {name: 3 * BATCH * macs for name, macs in sparsifier.spent.items()}  # a backward pass is two forward ones
        widths = {group.name: len(group.units) for group in sparsifier.network.groups if group.prunable}
        result |= {
            "macs": sum(spent.values()),
            "exploration_macs": spent["explore"],
            "small_macs": sparsifier.network.macs,
            "widths": widths,
        }
        result |= {"small_parameters": sparsifier.network.parameter_count}
    else:
        result |= {"macs": meter.total, "exploration_macs": meter.exploration}
    if isinstance(sparsifier, ExploitExplore | ExploitExploreChannels):
        result |= {"regret": sparsifier.timeline.regret, "rows": list(sparsifier.timeline.rows())}
    return result


def method(name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, options: dict[str, Any]) -> Sparsifier | None:
    if name == "iee":
        return ExploitExplore(model, optimizer, steps=steps, **options)
    return make_sparsifier(name, model, optimizer, steps, {} if name == "dense" else options)


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: Data, images: Any) -> float:
    model.eval()
    right = 0
    for pixels, labels in zip(data.test.pixels.split(500), data.test.labels.split(500), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            right += int((model(images(pixels)).argmax(1) == labels).sum())
    return right / len(data.test)


def table(results: dict[str, Any]) -> str:
    """Runs that differ in nothing but the seed share a line. Below, all against the baselines, over the seeds that both have."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for result in results.values():
        options = ", ".join(f"{name}={value}" for name, value in result.get("options", {}).items())
        groups.setdefault((result["method"], options, result.get("epochs", 7)), []).append(result)
    lines = []
    for (method, options, epochs), runs in groups.items():
        cost = f"{runs[0]['macs'] / 1e12:.1f} ({runs[0]['exploration_macs'] / 1e12:.2f})"
        regret = f"{runs[0]['regret']:.0%}" if runs[0].get("regret") else ""
        scores = spread([100 * run["accuracy"] for run in runs])
        lines.append([method, options, str(epochs), scores, str(len(runs)), cost, f"{runs[0]['seconds']:.0f}", regret])
    header = ["method", "options", "epochs", "accuracy", "seeds", "training cost, TMACs (exploration)", "seconds", "regret"]
    made = rows(header, lines)
    scored = {key: {run.get("seed", 0): 100 * run["accuracy"] for run in runs} for key, runs in groups.items()}
    told = []
    for key, own in scored.items():
        for other, theirs in scored.items():
            if key[0] == "iee" and other[0] != "iee" and key[2] == other[2] and len(own.keys() & theirs.keys()) > 1:
                told.append(f"- {compared(f'iee ({key[1]})', own, f'{other[0]} ({other[1]})', theirs)}")
    return "\n".join([*made, *(["", NOTE, "", *told] if told else [])])


def latencies(results: dict[str, Any]) -> str:
    """Measured latency of the small networks on ONNX Runtime, one thread, batch 1, against the whole one. Widths are all that matters."""
    inputs = torch.randn(1, 3, 32, 32)
    network = fxsparse.trace(resnet20().eval(), inputs)
    networks = {"dense": network}
    for name, result in results.items():
        if "widths" in result:
            networks[name] = network.shrink({group: list(range(width)) for group, width in result["widths"].items()})
    onnx = engine("onnxruntime", threads=1)
    timed = compare({name: onnx.build(each.module, (inputs,)).prepare() for name, each in networks.items()}, seconds=2.0)
    made = ["| network | MACs | parameters | latency, ms | of the dense one's |", "|---|---|---|---|---|"]
    for name, each in networks.items():
        share = ratio(timed[name], timed["dense"])
        made.append(f"| {name} | {each.macs:,} | {each.parameter_count:,} | {timed[name].median:.3f} | {share} |")
    return "\n".join(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("queue", type=Path, nargs="?")
    parser.add_argument("--results", type=Path, default=RESULTS / "probes.json")
    parser.add_argument("--cache", type=Path, default=None, help="where decoded images are kept")
    parser.add_argument("--test", action="store_true", help="train on all training images, and judge on the test images")
    parser.add_argument("--table", action="store_true", help="write the tables of docs/iee.md")
    parser.add_argument("--latency", action="store_true", help="print the measured latency of the networks in the results")
    arguments = parser.parse_args()
    if arguments.table:
        for name in ("probes", "weights"):
            write_between(DOCUMENT, name, table(json.loads((RESULTS / f"{name}.json").read_text())))
        return
    if arguments.queue is None:
        results = json.loads(arguments.results.read_text())
        print(latencies(results) if arguments.latency else table(results))
        return
    torch.set_num_threads(1)
    data = load_data(arguments.data, cache=arguments.cache, validation=0.0 if arguments.test else 0.1)
    while True:
        done = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        waiting = [entry for entry in json.loads(arguments.queue.read_text()) if entry["name"] not in done]
        if not waiting:
            return
        entry = waiting[0]
        named = {"weights": Path(entry["weights"]).name} if entry.get("weights") else {}
        result = {**entry, **named, **run(data, entry)}
        print(entry["name"], f"{result['accuracy']:.2%}", f"{result['seconds']} s", flush=True)
        done = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        half = arguments.results.with_suffix(".tmp")
        half.write_text(json.dumps({**done, entry["name"]: result}, indent=1) + "\n")
        os.replace(half, arguments.results)


if __name__ == "__main__":
    main()
