"""EAST and its parts on CIFAR-10, one run after another: `python benchmarks/east.py --data DATA --method east --density 0.01`.

Each run writes a small file into benchmarks/results/east, and is not repeated while the file is there; killed, it goes on from its last
checkpoint under --work. Several methods, densities and seeds are worked off in the order given. `--probe` measures instead what growth does
to filters without a weight, in the first steps of RigL. `--table` prints the files as a table. SGD with Nesterov momentum 0.9, weight
decay 5e-4, batch 128, flips and crops, gradients clipped at 1.0, a cosine from 0.1 to 0; one thread, bf16 autocast on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch

import fxsparse
from fxsparse.training.data_folder import default_cache
from fxsparse.training.east import Extreme, Parts
from fxsparse.training.recipe import Recipe
from fxsparse.training.results import write_json
from fxsparse.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parent / "results" / "east"
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
        "precision": arguments.precision, "clip": 1.0, "seed": seed, "checkpoint_every": 200,
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


def table(results: Path) -> str:
    """Accuracies by method and density, with what the training cost."""
    files = [json.loads(path.read_text()) for path in sorted(results.glob("*-seed*.json")) if not path.name.startswith("growth")]
    lines = [
        "| model, epochs | density | method | test accuracy, % | seeds | weights left | mean density | training, TMACs | empty layers |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in files:
        key = (each["settings"]["model"], each["settings"]["epochs"], each["density"], each["label"])
        groups.setdefault(key, []).append(each)
    for (model, epochs, density, label), runs in sorted(groups.items(), key=lambda item: (*item[0][:3], METHODS.index(item[0][3]))):
        values = [100 * run["accuracy"] for run in runs]
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan
        cells = [
            f"{model}, {epochs}",
            f"{density:g}",
            label,
            f"{mean:.2f}" + ("" if math.isnan(spread) else f" ± {spread:.2f}"),
            str(len(runs)),
        ]
        cells += [f"{runs[0]['masked_weights_left']:,}", f"{math.fsum(r['average_density'] for r in runs) / len(runs):.4f}"]
        cells += [f"{math.fsum(r['train_macs'] for r in runs) / len(runs) / 1e12:.1f}", str(max(r["empty_layers"] for r in runs))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
    parser.add_argument("--probe", type=int, default=0, metavar="STEPS")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table:
        print(table(arguments.results))
    elif arguments.data is None:
        parser.error("give the folder of CIFAR-10 with --data")
    elif arguments.probe:
        probe(arguments.density[0], arguments.seed[0], arguments.probe, arguments)
    else:
        for density in arguments.density:
            for seed in arguments.seed:
                for method in arguments.method:
                    train(method, density, seed, arguments)


if __name__ == "__main__":
    main()
