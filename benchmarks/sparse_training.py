"""Sparse training of ResNet-20 on CIFAR-10, one run after another: `python benchmarks/sparse_training.py --data DATA --method rigl`.

A run writes one small file into benchmarks/results/training, and is not repeated while the file is there. Killed, it goes on from its last
checkpoint under --work. With `--queue FILE`, each line of the file holds the flags of a run (`--method rigl --density 0.1 --seed 0`), and
--workers processes of one thread each, niced, work through them; the file may grow meanwhile. `--table` writes the tables of
docs/training.md from the files. SGD with Nesterov momentum 0.9, weight decay 5e-4, batch 128, flips and crops, a cosine from --lr to 0; all
runs have the same number of steps, and report the test accuracy after the last one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from document import rows, write_between
from seeds import NOTE, compared, spread

import fxsparse
from fxsparse.training.data_folder import default_cache
from fxsparse.training.recipe import Recipe
from fxsparse.training.results import write_json
from fxsparse.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "training"
DOCUMENT = ROOT / "docs" / "training.md"
HEADER = ("density", "method", "test accuracy, %", "seeds", "non-zeros", "training cost, TMACs", "processor seconds")
ORDER = ("dense", "static", "set", "rigl", "gradual", "one-shot", "sr-ste", "iee")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, help="CIFAR-10 as torchvision's folder or as class folders")
    made.add_argument("--work", type=Path, default=default_cache(), help="checkpoints and decoded images, outside the repository")
    made.add_argument("--cache", type=Path, default=None, help="decoded images, when not under --work")
    made.add_argument("--results", type=Path, default=RESULTS)
    made.add_argument("--queue", type=Path)
    made.add_argument("--workers", type=int, default=2)
    made.add_argument("--table", action="store_true")
    made.add_argument("--model", default="fxsparse:resnet20")
    made.add_argument("--method", default="rigl")
    made.add_argument("--density", type=float, default=0.1)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--epochs", type=int, default=7)
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--schedule", default="cosine")
    made.add_argument("--fp32", action="store_true", help="instead of bf16 autocast")
    made.add_argument("--options", default="{}", help="further options of the method, as JSON")
    return made


def name_of(run: argparse.Namespace) -> str:
    """One name for one setting."""
    parts = [
        run.model.split(":")[1],
        run.method,
        *([] if run.method == "dense" else [f"{run.density:g}"]),
        f"{run.epochs}e",
        f"seed{run.seed}",
    ]
    for flag, usual in (("lr", 0.1), ("schedule", "cosine"), ("fp32", False)):
        if getattr(run, flag) != usual:
            parts.append(f"{flag}{'' if flag == 'fp32' else getattr(run, flag)}")
    parts += [f"{key}{value}" for key, value in sorted(json.loads(run.options).items())]
    return "-".join(parts)


def train(run: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    name = name_of(run)
    target = run.results / f"{name}.json"
    if target.exists():
        print(f"{name}: there already", flush=True)
        return
    options = {} if run.method == "dense" else {"density": run.density, **json.loads(run.options)}
    recipe = Recipe(
        model=run.model,
        data=str(run.data),
        method=run.method,
        options=options,
        epochs=run.epochs,
        lr=run.lr,
        schedule=run.schedule,
        precision="fp32" if run.fp32 else "bf16",
        seed=run.seed,
        cache=str(run.cache or run.work),
        checkpoint_every=100,
    )
    result = Trainer(recipe, run.work / "runs" / name).run(resume=True)
    settings = {key: value for key, value in recipe.to_plain().items() if key not in ("data", "cache", "device", "threads")}
    made = {
        "name": name,
        "settings": settings,
        **result.to_dict(),
        "versions": {"fxsparse": fxsparse.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, made)
    print(f"{name}: {result.accuracy:.2%} after {result.steps} steps, {result.processor_seconds:.0f} s of processor time", flush=True)


def work(arguments: argparse.Namespace) -> None:
    """Start runs from the queue until none is left. What this process started ends with it, and loses nothing."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: dict[str, int] = {}
    folders = ["--data", str(arguments.data), "--work", str(arguments.work), "--results", str(arguments.results)]
    folders += [] if arguments.cache is None else ["--cache", str(arguments.cache)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        while True:
            for name in [name for name, process in running.items() if process.poll() is not None]:
                code = running.pop(name).returncode
                if code:
                    failed[name] = code
                    print(f"{name}: failed with status {code}", flush=True)
            waiting = {}
            for line in arguments.queue.read_text().splitlines():
                if line.strip() and not line.startswith("#"):
                    name = name_of(parser().parse_args(shlex.split(line)))
                    if name not in running and name not in failed and not (arguments.results / f"{name}.json").exists():
                        waiting[name] = shlex.split(line)
            if not waiting and not running:
                return
            while waiting and len(running) < arguments.workers:
                name, flags = next(iter(waiting.items()))
                del waiting[name]
                command = [sys.executable, str(Path(__file__).resolve()), *folders, *flags]
                running[name] = subprocess.Popen(command, env=environment, preexec_fn=lambda: os.nice(19))
            time.sleep(2)
    finally:
        for process in running.values():
            process.terminate()


# ---- tables ---------------------------------------------------------------------------------------------------------------------


def tables(files: list[dict[str, Any]]) -> str:
    """Runs that differ in nothing but method, density and seed share a table."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for each in files:
        settings = each["settings"]
        key = (settings["model"], settings["epochs"], settings["lr"], settings["schedule"], settings["precision"])
        groups.setdefault(key, []).append(each)
    text = []
    for (model, epochs, lr, schedule, precision), runs in sorted(groups.items()):
        lines, notes = [], []
        densities = sorted({run["settings"]["options"].get("density", 1.0) for run in runs}, reverse=True)
        for density in densities:
            here = [run for run in runs if run["settings"]["options"].get("density", 1.0) == density]
            by_method: dict[str, dict[int, float]] = {}
            for run in here:
                by_method.setdefault(label(run), {})[run["settings"]["seed"]] = 100 * run["accuracy"]
            for method in sorted(by_method, key=lambda name: (ORDER.index(name.split(" ")[0]), name)):
                some = [run for run in here if label(run) == method]
                cost = math.fsum(run["train_macs"] for run in some) / len(some) / 1e12
                seconds = math.fsum(run["processor_seconds"] for run in some) / len(some)
                accuracy, nonzeros = spread(list(by_method[method].values())), f"{some[0]['nonzeros']:,}"
                lines.append([f"{density:g}", method, accuracy, str(len(some)), nonzeros, f"{cost:.1f}", f"{seconds:.0f}"])
            pairs = [("set", "static"), ("rigl", "set"), ("rigl", "static"), ("gradual", "rigl")]
            pairs += [(name, other) for name in by_method if name.startswith("iee") for other in ("static", "set", "rigl", "gradual")]
            told = [compared(a, by_method[a], b, by_method[b]) for a, b in pairs if a in by_method and b in by_method]
            notes += [f"- density {density:g}: {each}" for each in told]
        text += [f"### {model}, {epochs} epochs, lr {lr:g} {schedule}, {precision}", "", *rows(HEADER, lines), ""]
        text += [NOTE, "", *notes, ""] if notes else []
    return "\n".join(text)


def label(run: dict[str, Any]) -> str:
    settings = run["settings"]
    extra = [f"{key}={value}" for key, value in sorted(settings["options"].items()) if key != "density"]
    return " ".join([settings["method"], *extra])


def write_tables(results: Path) -> None:
    files = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    write_between(DOCUMENT, "results", tables([each for each in files if "name" in each]))


def main() -> None:
    arguments = parser().parse_args()
    if arguments.table:
        write_tables(arguments.results)
    elif arguments.data is None:
        sys.exit("give the folder of CIFAR-10 with --data")
    elif arguments.queue is not None:
        work(arguments)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
