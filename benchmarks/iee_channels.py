"""IEE of channels to half the latency, against other ways to prune: `python benchmarks/iee_channels.py --data DATA --scheme iee --seed 0`.

A run trains one network with SGD (Nesterov momentum 0.9, weight decay 5e-4, batch 128, flips and crops, a cosine to 0, bf16 autocast, one
thread) and writes one small file into benchmarks/results/iee/channels. It is not repeated while the file is there; killed, it goes on from
its last checkpoint under --work.

`--scheme` says how the network becomes small: `dense` (not at all), `one-shot`, `iterative` (with --criterion bn-taylor and the latency
knapsack this is HALP's scheme: prune along an exponential, then fine-tune), or `iee`. `--start` says from what: `scratch`, a weights file,
or `own`, what the run of scheme `dense` with the same --seed and --pretraining epochs left under --work. So `dense`, then `iterative` from
`own`, is pretraining with HALP's prune-and-fine-tune, and `iee` from `scratch` is what it is compared with: the cost of training counts all
steps, forward, backward and exploring, in multiply-accumulates and in processor seconds of the steps alone.

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
from document import rows, write_between
from seeds import NOTE, compared, difference, spread

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
    "iterative": {"cycles": 20, "ramp": 0.4, "stop": 0.45, "growth": 0.0, "explore": 0, "estimate": 30, "foresight": False},
    "iee": {"cycles": 2, "stop": 0.25, "growth": 0.2, "explore": 10, "estimate": 50, "grace": True},
}
EARLY = {"cycles": 8, "ramp": 0.02, "stop": 0.6, "estimate": 20}  # from scratch there is nothing to lose by being small at once


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


def begun(arguments: argparse.Namespace) -> str:
    return arguments.start if arguments.start in ("scratch", "own") else "pretrained"


def name_of(arguments: argparse.Namespace) -> str:
    """One name for one setting."""
    start = begun(arguments)
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
    start = begun(arguments)
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


def accuracies(runs: list[dict[str, Any]]) -> dict[int, float]:
    return {run["settings"]["seed"]: 100 * run["accuracy"] for run in runs}


def label(run: dict[str, Any]) -> str:
    """HALP's scheme by its name; what differs from the usual options is added."""
    options = run["settings"]["options"]
    early = EARLY if run["scheme"] == "iee" and run["start"] == "scratch" else {}
    usual = {**SCHEMES[run["scheme"]], **early, "latency": options.get("latency"), "criterion": options.get("criterion")}
    extra = "".join(f", {key}={value}" for key, value in options.items() if usual.get(key) != value)
    name = f"{run['scheme']}, {options['criterion']}"
    return f"HALP-like ({name})" if name == "iterative, bn-taylor" and not extra else name + extra


def grouped(files: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in files:
        found.setdefault(tuple(run["settings"].get(key, run.get(key)) for key in keys), []).append(run)
    return found


def latency_cell(runs: list[dict[str, Any]]) -> str:
    return spread([100 * run["latency"]["part"] for run in runs], 1)


def pruned_table(files: list[dict[str, Any]]) -> list[str]:
    """Figure 3: pretrained networks at half the latency."""
    text = []
    for (model, epochs, part), runs in sorted(grouped(files, "model", "epochs", "part").items()):
        lines: list[list[str]] = []
        by_label: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            by_label.setdefault(label(run), []).append(run)
        for name, some in sorted(by_label.items(), key=lambda item: -sum(accuracies(item[1]).values()) / len(item[1])):
            macs, parameters = (math.fsum(run[key] for run in some) / len(some) for key in ("macs", "parameters"))
            cost = math.fsum(run["train_macs"] for run in some) / len(some) / 1e12
            cells = [spread(list(accuracies(some).values())), str(len(some)), latency_cell(some), f"{macs / 1e6:.1f}", f"{parameters:,.0f}"]
            regret = math.fsum(run["regret"] for run in some) / len(some)
            lines.append([name, *cells, f"{cost:.1f}", f"{regret:.0%}" if regret else ""])
        header = ["method", "accuracy, %", "seeds", "latency, % of dense", "million MACs", "parameters", "training, TMACs", "regret"]
        text += [f"#### Pretrained {model.partition(':')[2]}, {epochs} epochs, {part:.0%} of the latency", "", *rows(header, lines), ""]
        pairs = [(a, b) for a in by_label for b in by_label if a.startswith("iee") and not b.startswith("iee")]
        told = [f"- {compared(a, accuracies(by_label[a]), b, accuracies(by_label[b]))}" for a, b in pairs]
        text += [NOTE, "", *told, ""] if told else []
    return text


def cost_table(files: list[dict[str, Any]], dense: list[dict[str, Any]]) -> list[str]:
    """Figure 4: pretraining and HALP's scheme against IEE from scratch."""
    pretraining = {(run["settings"]["model"], run["settings"]["epochs"], run["settings"]["seed"]): run for run in dense}
    whole = []
    for run in files:
        if run["start"] == "own":
            first = pretraining.get((run["settings"]["model"], run["pretraining"], run["settings"]["seed"]))
            if first is None:
                continue
            sums = {key: run[key] + first[key] for key in ("train_macs", "step_seconds", "steps")}
            whole.append({**run, **sums, "way": f"{first['settings']['epochs']} epochs dense, {run['settings']['epochs']} of {label(run)}"})
        else:
            whole.append({**run, "way": f"{run['settings']['epochs']} epochs of {label(run)}, from scratch"})
    text = []
    for (model, part), runs in sorted(grouped(whole, "model", "part").items()):
        ways = grouped(runs, "way")
        lines = []
        for (way,), some in sorted(ways.items(), key=lambda item: -item[1][0]["train_macs"]):
            cost = spread([run["train_macs"] / 1e12 for run in some], 1)
            time_ = spread([run["step_seconds"] for run in some], 0)
            lines.append([str(way), spread(list(accuracies(some).values())), str(len(some)), latency_cell(some), cost, time_])
        header = ["way", "accuracy, %", "seeds", "latency, % of dense", "training, TMACs", "processor seconds of steps"]
        text += [f"#### Cost of training {model.partition(':')[2]} for {part:.0%} of the latency", "", *rows(header, lines), ""]
        told = []
        for (way,), some in ways.items():
            for (other,), others in ways.items():
                if "scratch" in way and "scratch" not in other:
                    seeds = {run["settings"]["seed"] for run in some} & {run["settings"]["seed"] for run in others}
                    if not seeds:
                        continue
                    saved = []
                    for key in ("train_macs", "step_seconds"):
                        mine, theirs = (math.fsum(r[key] for r in each if r["settings"]["seed"] in seeds) for each in (some, others))
                        saved.append(f"{1 - mine / theirs:.0%}")
                    told.append(
                        f"- {way}, against {other}: {saved[0]} fewer MACs, {saved[1]} less time; "
                        f"accuracy {difference(accuracies(some), accuracies(others))}"
                    )
        text += [NOTE, "", *told, ""] if told else []
    return text


def write_tables(results: Path) -> None:
    files = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    for run in files:
        run["part"] = run["settings"]["options"].get("latency")
    small, dense = [run for run in files if run["scheme"] != "dense"], [run for run in files if run["scheme"] == "dense"]
    text = pruned_table([run for run in small if run["start"] == "pretrained"])
    text += cost_table([run for run in small if run["start"] != "pretrained"], dense)
    write_between(DOCUMENT, "channels", "\n".join(text) or "No run yet.")


def measure_again(results: Path) -> None:
    """The latency of every network in the results."""
    for path in sorted(results.glob("*.json")):
        run = json.loads(path.read_text())
        if "widths" in run:
            run["latency"] = latency(run["settings"]["model"].partition(":")[2], run["widths"])
            write_json(path, run)
            print(f"{run['name']}: {run['latency']['part']:.1%} of the dense latency", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10 as torchvision's folder or as class folders")
    parser.add_argument("--work", type=Path, default=default_cache(), help="checkpoints and weights, outside the repository")
    parser.add_argument("--cache", type=Path, default=None, help="decoded images, when not under --work")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--scheme", choices=SCHEMES, default="iee")
    parser.add_argument("--criterion", default="bn-taylor")
    parser.add_argument("--part", type=float, default=0.5, help="of the dense network's latency")
    parser.add_argument("--start", default="scratch", help="scratch, own, or a weights file")
    parser.add_argument("--pretraining", type=int, default=7, help="epochs of the dense run that `own` starts from")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=None, help="0.1 from scratch, else 0.02")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method, as in TOML")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.latency:
        measure_again(arguments.results)
    if arguments.table:
        write_tables(arguments.results)
    if arguments.latency or arguments.table:
        return
    if arguments.data is None:
        parser.error("give the folder of CIFAR-10 with --data")
    train(arguments)


if __name__ == "__main__":
    main()
