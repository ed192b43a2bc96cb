"""EAST and its parts on CIFAR-10, one run after another: `python benchmarks/east.py --data DATA --method east --density 0.01`.

Each run writes a small file into benchmarks/results/east, and is not repeated while the file is there; killed, it goes on from its last
checkpoint under --work. Several methods, densities and seeds are worked off in the order given. SGD with Nesterov momentum 0.9, weight
decay 5e-4, batch 128, flips and crops, gradients clipped at 1.0, a cosine from 0.1 to 0; one thread, bf16 autocast on the CPU.

`--probe` measures instead what growth does to filters without a weight, in the first steps of RigL. `--latency RUN` takes a finished run's
network apart (shared weights, dead channels, batch norms) and measures it on ONNX Runtime beside the dense one. `--table` writes all files
into docs/east.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from document import rows, write_between
from seeds import NOTE, compared, mean_and_deviation, spread

import fxsparse
from fxsparse.engines import compare, ratio
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.models import build
from fxsparse.passes import LowerOnnx
from fxsparse.sparsity.counting import nonzeros, profile
from fxsparse.training.checkpoint import load_checkpoint
from fxsparse.training.data_folder import default_cache
from fxsparse.training.east import Extreme, Parts, finished, prepared
from fxsparse.training.recipe import Recipe
from fxsparse.training.results import write_json
from fxsparse.training.trainer import CHECKPOINT, Trainer

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "east", ROOT / "docs" / "east.md"
SMALL = "unshare-weights,apply-masks,eliminate-dead-channels,fold-batch-norm,simplify"
EVEN = SMALL.replace("channels", "channels{align=8}")
PARTS = {"dyrelu": "dyrelu", "sharing": "sharing", "cyclic": "cyclic"}
METHODS = (
    "static",
    "rigl",
    "gradual",
    "rigl-calm",
    "east",
    "dyrelu",
    "sharing",
    "cyclic",
    "dyrelu+sharing",
    "dyrelu+cyclic",
    "sharing+cyclic",
)


def recipe_of(method: str, density: float, seed: int, arguments: argparse.Namespace) -> tuple[Recipe, tuple[Parts, ...]]:
    """`east` is all three parts; `rigl` is RigL without them, `rigl-calm` with the gradients of empty filters counted like others'."""
    common: dict[str, Any] = {
        "model": arguments.model, "data": str(arguments.data), "cache": str(arguments.cache or arguments.work), "epochs": arguments.epochs,
        "precision": arguments.precision, "device": arguments.device, "clip": 1.0, "seed": seed, "checkpoint_every": 200,
    }  # fmt: skip
    if method in ("static", "rigl", "gradual"):
        return Recipe(method=method, options={"density": density}, **common), ()
    parts = set(PARTS) if method == "east" else set(method.split("+")) & set(PARTS)
    options = {"density": density, "cyclic": "cyclic" in parts, "dyrelu": "dyrelu" in parts, "sharing": 2 * ("sharing" in parts)}
    if method == "rigl-calm":
        options |= {"fraction": 0.3, "least": 0.0}
    recipe = Recipe(method="east", options=options, **common)
    return recipe, (Parts(dyrelu="dyrelu" in parts, sharing=2 * ("sharing" in parts)),)


def train(method: str, density: float, seed: int, arguments: argparse.Namespace) -> None:
    name = f"{arguments.model.split(':')[1]}-{method}-{density:g}-{arguments.epochs}e-seed{seed}"
    target = arguments.results / f"{name}.json"
    if target.exists():
        print(f"{name}: there already", flush=True)
        return
    recipe, parts = recipe_of(method, density, seed, arguments)
    trainer = Trainer(recipe, arguments.work / "east" / name, callbacks=parts)
    result = trainer.run(resume=True)
    sparsifier: Any = trainer.sparsifier
    settings = {key: value for key, value in recipe.to_plain().items() if key not in ("data", "cache", "device", "threads")}
    made = {
        "name": name, "label": method, "density": density, "seed": seed,
        "masked_weights_left": sum(sparsifier.nonzeros.values()),
        "average_density": math.fsum(line["density"] for line in result.epochs) / len(result.epochs),
        "empty_layers": max(line["empty_layers"] for line in result.epochs),
        "settings": settings, **result.to_dict(),
        "versions": {"fxsparse": fxsparse.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, made)
    print(f"{name}: {result.accuracy:.2%} after {result.steps} steps, {result.processor_seconds:.0f} s of processor time", flush=True)


def probe(density: float, seed: int, steps: int, arguments: argparse.Namespace) -> None:
    """Gradient norms around RigL's updates, and where its weights grow, with the gradients as they are (raw) and evened (calm)."""
    found: dict[str, Any] = {"density": density, "seed": seed, "steps": steps}
    for calm in (False, True):
        recipe, _ = recipe_of("rigl-calm", density, seed, arguments)
        options = {**recipe.options, "calm": calm, "interval": 50}
        recipe = Recipe(**{**recipe.to_dict(), "options": options})
        trainer = Trainer(recipe)
        sparsifier = trainer.sparsifier
        assert isinstance(sparsifier, Extreme)
        norms: list[float] = []
        grown: list[dict[str, int]] = []
        clip = sparsifier.clip_grad_norm_

        def clipped(limit: float, clip: Any = clip, norms: list[float] = norms) -> torch.Tensor:
            norm: torch.Tensor = clip(limit)
            norms.append(float(norm))
            return norm

        sparsifier.clip_grad_norm_ = clipped  # type: ignore[method-assign]
        before = dict(sparsifier.masks)
        for pixels, labels in trainer.batches.epoch(0, 0):
            trainer._step(pixels, labels)
            after = dict(sparsifier.masks)
            if any(not torch.equal(before[key], after[key]) for key in before):
                new = {key: after[key] & ~before[key] for key in before}
                hollow = {key: ~before[key].flatten(1).any(1) for key in before}
                values = {t.name: t.parameter.detach().flatten(1).any(1) for t in sparsifier.targets}
                zero = {key: after[key].flatten(1).any(1) & ~values[key] for key in before}
                into = sum(int(new[key].flatten(1)[hollow[key]].sum()) for key in before)
                grown.append(
                    {
                        "step": trainer.step,
                        "grown": sum(int(mask.sum()) for mask in new.values()),
                        "into_empty_filters": into,
                        "filters_of_zeros_that_live": sum(int(each.sum()) for each in zero.values()),
                        "empty_filters": sum(int(each.sum()) for each in hollow.values()),
                        "filters": sum(len(each) for each in hollow.values()),
                    }
                )
                before = after
            if trainer.step == steps:
                break
        name = "calm" if calm else "raw"
        found[name] = {"updates": grown, "norms": [round(norm, 3) for norm in norms]}
        after_updates = [max(norms[line["step"] : line["step"] + 3], default=math.nan) for line in grown]
        found[name]["largest_norm_in_3_steps_after"] = [round(norm, 3) for norm in after_updates]
        found[name]["median_norm"] = round(sorted(norms)[len(norms) // 2], 3)
        print(name, grown, found[name]["largest_norm_in_3_steps_after"], found[name]["median_norm"], flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(arguments.results / f"growth-{density:g}-seed{seed}.json", found)


def network_of(run: dict[str, Any], work: Path) -> fxsparse.Network:
    """The network that a run has left, from its last checkpoint: with its masks, and without DyReLUs."""
    state, settings = load_checkpoint(work / "east" / run["name"] / CHECKPOINT), run["settings"]
    parts = set(PARTS) if run["label"] == "east" else set(run["label"].split("+")) & set(PARTS)
    inputs, model = torch.zeros(1, 3, 32, 32), build(settings["model"], seed=settings["seed"]).model
    network = prepared(model, inputs, dyrelu="dyrelu" in parts, sharing=2 * ("sharing" in parts), seed=settings["seed"])
    network.module.load_state_dict(state["model"])
    network.module.eval()
    return finished(network, state["sparsifier"]["masks"])


def latency(run: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Sizes, and milliseconds on ONNX Runtime (one thread, batch 1): dense; sparse, with the zeros in place; without dead channels; and
    with so many of them that widths are multiples of 8."""
    sparse = network_of(run, arguments.work)
    alone = fxsparse.Pipeline.parse("unshare-weights,apply-masks")(sparse).network
    made = fxsparse.Pipeline.parse(SMALL)(sparse)
    even = fxsparse.Pipeline.parse(EVEN)(sparse).network
    inputs = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = sparse.module.eval()(inputs)
        off = max(float((before - each.module.eval()(inputs)).abs().max()) for each in (made.network, even))
    dense = fxsparse.trace(build(run["settings"]["model"], seed=0).model.eval(), inputs[:1])
    onnx = OnnxRuntime(threads=1)
    found: dict[str, Any] = {"name": run["name"], "pipeline": SMALL, "largest_difference": off}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, network in (("dense", dense), ("sparse", alone), ("small", made.network), ("aligned", even)):
            path = Path(folder) / f"{name}.onnx"
            LowerOnnx(path=str(path))(network)
            sessions[name] = onnx.open(path, (inputs[:1],)).prepare()
            costs, living = profile(network.module, inputs[:1]), nonzeros(network.module)
            found[name] = {"parameters": network.parameter_count, "nonzeros": sum(living.values()), "macs": network.macs}
            found[name] |= {"macs_without_zeros": costs.macs(living), "onnx_bytes": path.stat().st_size}
        timed = compare(sessions, seconds=3.0)
    for name, timing in timed.items():
        part = ratio(timing, timed["dense"])
        found[name] |= {"ms": timing.median, "of_dense": part.value, "interval": [part.low, part.high]}
    return found


# ---- tables ---------------------------------------------------------------------------------------------------------------------


def table(results: Path) -> str:
    """Accuracies by method and density, with what the training cost."""
    files = [json.loads(path.read_text()) for path in sorted(results.glob("*-seed*.json"))]
    files = [each for each in files if "label" in each]
    if not files:
        return "No run yet."
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in files:
        key = (each["settings"]["model"], each["density"], each["settings"]["epochs"], each["label"])
        groups.setdefault(key, []).append(each)
    text, setups = [], sorted({key[:2] for key in groups}, key=lambda key: (key[0], -key[1]))
    for model, density in setups:
        here = {key[2:]: runs for key, runs in groups.items() if key[:2] == (model, density)}
        lines = []
        for (epochs, label), runs in sorted(here.items(), key=lambda item: (item[0][0], METHODS.index(item[0][1]))):
            cells = [label, str(epochs), spread([100 * run["accuracy"] for run in runs]), str(len(runs))]
            cells += [f"{runs[0]['masked_weights_left']:,}", f"{mean(run['average_density'] for run in runs):.2%}"]
            cells += [f"{mean(run['train_macs'] for run in runs) / 1e12:.1f}", str(max(run["empty_layers"] for run in runs))]
            lines.append(cells)
        header = ["method", "epochs", "test accuracy, %", "seeds", "weights left", "mean density", "training, TMACs", "empty layers"]
        text += [f"### {model.partition(':')[2]}, {100 * (1 - density):g} % sparse", "", *rows(header, lines), ""]
        told = [f"- {line}" for line in differences(here)]
        text += [NOTE, "", *told, ""] if told else []
    return "\n".join(text)


def differences(here: dict[tuple[int, str], list[dict[str, Any]]]) -> list[str]:
    """EAST, its parts and calm growth against RigL at equal steps; and EAST and its parts against a RigL that trains for as many MACs."""
    scores = {key: {run["seed"]: 100 * run["accuracy"] for run in runs} for key, runs in here.items()}
    made = []
    for (epochs, label), own in scores.items():
        pairs = [("rigl", "static"), ("gradual", "rigl")] + [(other, "rigl") for other in METHODS[3:]] + [("east", "gradual")]
        made += [
            f"{epochs} epochs: {compared(label, own, other, scores[epochs, other])}"
            for one, other in pairs
            if one == label and (epochs, other) in scores
        ]
    for (epochs, label), runs in here.items():
        cost = mean(run["train_macs"] for run in runs)
        shares = {key: mean(run["train_macs"] for run in here[key]) / cost for key in here if key[1] == "rigl" and key[0] > epochs}
        as_many = [key for key, share in shares.items() if 0.98 <= share <= 1.1]
        if label in METHODS[3:] and as_many:
            key = min(as_many)
            share = shares[key]
            names = f"{label}, {epochs} epochs", f"rigl, {key[0]} epochs"
            made.append(f"at {share:.2f} times the training MACs: {compared(names[0], scores[epochs, label], names[1], scores[key])}")
    return made


def sizes(results: Path) -> list[str]:
    """What became of networks: size and latency against the dense one."""
    lines = []
    for path in sorted(results.glob("latency-*.json")):
        found = json.loads(path.read_text())
        for name in ("dense", "sparse", "small", "aligned"):
            each = found[name]
            part = f"{each['of_dense']:.2f} ({each['interval'][0]:.2f} to {each['interval'][1]:.2f})"
            cells = [f"{each['parameters']:,}", f"{each['nonzeros']:,}", f"{each['macs'] / 1e6:.2f}", f"{each['onnx_bytes'] / 1024:.0f}"]
            lines.append([f"{found['name']}: {name}", *cells, f"{each['ms']:.3f}", part])
    header = ["network", "parameters", "not zero", "million MACs", "ONNX file, KiB", "latency, ms", "of the dense one's (95 % interval)"]
    return ["### Size and latency", "", *rows(header, lines), ""] if lines else []


def mean(values: Iterable[float]) -> float:
    return mean_and_deviation(list(values))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=default_cache())
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--model", default="fxsparse:resnet20")
    parser.add_argument("--method", nargs="+", default=["east"], choices=METHODS)
    parser.add_argument("--density", nargs="+", type=float, default=[0.01])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--probe", type=int, default=0, metavar="STEPS")
    parser.add_argument("--latency", nargs="+", metavar="RUN", help="names of finished runs, whose checkpoints are under --work")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.latency or ():
        found = latency(json.loads((arguments.results / f"{name}.json").read_text()), arguments)
        write_json(arguments.results / f"latency-{name}.json", found)
        print(json.dumps(found, indent=1), flush=True)
    if arguments.table:
        write_between(DOCUMENT, "results", "\n".join([table(arguments.results), *sizes(arguments.results)]))
    if arguments.latency or arguments.table:
        return
    if arguments.data is None:
        parser.error("give the folder of CIFAR-10 with --data")
    if arguments.probe:
        probe(arguments.density[0], arguments.seed[0], arguments.probe, arguments)
        return
    for density in arguments.density:
        for seed in arguments.seed:
            for method in arguments.method:
                train(method, density, seed, arguments)


if __name__ == "__main__":
    main()
