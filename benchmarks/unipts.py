"""Post-training sparsity of ResNet-20 and ResNet-32 on CIFAR-10.

    python benchmarks/unipts.py --data cifar10/ --weights weights/ --method unipts --sparsity 0.9         # one run
    python benchmarks/unipts.py --data cifar10/ --weights weights/ --queue benchmarks/unipts_queue.json   # all that are missing
    python benchmarks/unipts.py --data cifar10/ --weights weights/ --study --cache work/                  # search against test
    python benchmarks/unipts.py --table                                                                   # docs/unipts.md and its plot

`--weights` is a state dict, or a folder with one for each network (resnet20*.th). One run writes one file into
benchmarks/results/unipts, and is not repeated while it is there. A queue is a JSON list of runs ({"method": ..., "sparsity": ...,
"options": {...}}); a list in place of a value stands for one run with each of its values. Several processes (--workers, or the command
again) share a queue, one thread each, and read it again before each run. Calibration images are drawn from the training images; the
accuracy is that after the last step, on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import fxsparse
from fxsparse.models import build
from fxsparse.training import calibrate
from fxsparse.training.augment import Normalise
from fxsparse.training.calibration.fitness import fitness_of
from fxsparse.training.calibration.images import gather
from fxsparse.training.calibration.plan import planned
from fxsparse.training.calibration.search import Search
from fxsparse.training.calibration.settings import settings_of
from fxsparse.training.data import Data, load_data
from fxsparse.training.evaluate import evaluate
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS, STUDY = ROOT / "benchmarks" / "results" / "unipts", ROOT / "benchmarks" / "results" / "unipts-search.json"
DEFAULTS: dict[str, Any] = {"model": "resnet20", "method": "unipts", "sparsity": 0.9, "images": 2048, "seed": 0, "options": {}}
GENOMES = 25  # of the study: so many of the best, and so many of all others


def entries(queue: Path) -> Iterator[dict[str, Any]]:
    """The runs of a queue, in its order."""
    for said in json.loads(queue.read_text(encoding="utf-8")):
        each = {**DEFAULTS, **said}
        lists = [value if isinstance(value, list) else [value] for value in each.values()]
        yield from (dict(zip(each, values, strict=True)) for values in itertools.product(*lists))


def name_of(entry: dict[str, Any]) -> str:
    extra = "".join(f"-{key}{value}" for key, value in sorted(entry["options"].items()))
    return f"{entry['model']}-{entry['method']}-{entry['sparsity']:g}-{entry['images']}-seed{entry['seed']}{extra}"


def batches_of(data: Data, entry: dict[str, Any]) -> list[Any]:
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(entry["seed"]))[: entry["images"]]
    pixels, labels = data.train[chosen]
    return [(Normalise()(pixels[i : i + 256]), labels[i : i + 256]) for i in range(0, len(chosen), 256)]


def dense_of(entry: dict[str, Any], weights: Path) -> torch.nn.Module:
    found = weights if weights.is_file() else sorted(weights.glob(f"{entry['model']}*"))[0]
    return build(f"fxsparse:{entry['model']}", found).model


def run(entry: dict[str, Any], data: Data, weights: Path, cache: Path | None) -> None:
    dense, work = dense_of(entry, weights), None if cache is None else cache / f"{name_of(entry)}-search.json"
    began = time.process_time()
    options = {"seed": entry["seed"], **entry["options"]}
    result = calibrate(dense, batches_of(data, entry), entry["sparsity"], entry["method"], search_file=work, **options)
    cpu = time.process_time() - began
    best = [max(fitness for _, fitness in result.searched[: i + 1]) for i in range(0, len(result.searched), 25)]
    found = {
        **entry, "sparsity": result.sparsity, "accuracy": evaluate(result.model, data.test, Normalise())[0],
        "agreement": result.agreement, "dense": evaluate(dense, data.test, Normalise())[0], "seconds": round(result.seconds, 1),
        "cpu_seconds": round(cpu, 1), "losses": [round(loss, 5) for loss in result.losses], "searched": len(result.searched),
        "best_fitness": best, "counts": dict(result.distribution.counts), "torch": torch.__version__, "fxsparse": fxsparse.__version__,
        "machine": platform.machine(),
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{name_of(entry)}.json", found)
    print(f"{name_of(entry)}: {found['accuracy']:.2%}, {cpu:.0f} CPU s", flush=True)


def work_off(said: argparse.Namespace) -> None:
    """One process's part of a queue: what is neither there nor in the hands of another process that lives."""
    torch.set_num_threads(1)
    data, claims = load_data(said.data, cache=said.cache), said.cache or RESULTS
    claims.mkdir(parents=True, exist_ok=True)
    while True:
        waiting = [e for e in entries(said.queue) if not (RESULTS / f"{name_of(e)}.json").exists()]
        entry = next((e for e in waiting if claimed(claims / f"{name_of(e)}.claim")), None)
        if entry is None:
            return
        try:
            run(entry, data, said.weights, said.cache)
        finally:
            (claims / f"{name_of(entry)}.claim").unlink(missing_ok=True)


def claimed(path: Path) -> bool:
    """Whether this process now has it."""
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        text = path.read_text()
    if text.isdigit():
        try:
            os.kill(int(text), 0)
        except ProcessLookupError:  # its owner was killed
            path.unlink(missing_ok=True)
            return claimed(path)
        except PermissionError:
            return False
    return False


def study(said: argparse.Namespace) -> None:
    """Whether what the search finds fit is good on the test images: genomes of a finished search, judged on both."""
    torch.set_num_threads(1)
    entry = {name: getattr(said, name) for name in DEFAULTS} | {"method": "unipts", "options": json.loads(said.options)}
    data, dense = load_data(said.data, cache=said.cache), dense_of(entry, said.weights)
    settings = settings_of("unipts", {"seed": entry["seed"], **entry["options"]})
    plan = planned(dense, entry["sparsity"], settings)
    task = fitness_of(dense, plan, gather(dense, batches_of(data, entry), settings), settings)
    path = said.cache / f"{name_of(entry)}-search.json"
    history = json.loads(path.read_text(encoding="utf-8"))["history"]
    expressed = Search(task, tuple(t.name for t in plan.targets), plan.sizes, plan.total, settings, plan.units)
    unique = {tuple(expressed.counts(genome)): fitness for genome, fitness in reversed(history)}
    ranked = sorted(unique.items(), key=lambda pair: -pair[1])
    others = torch.randperm(len(ranked) - GENOMES, generator=torch.Generator().manual_seed(0))[:GENOMES] + GENOMES
    rows = []
    for place in [*range(GENOMES), *sorted(others.tolist())]:
        counts, fitness = ranked[place]
        rows.append({"place": place, "fitness": fitness, "test": evaluate(task.cut(counts), data.test, Normalise())[0]})
        print(rows[-1], flush=True)
    said_of = {}
    for part, chosen in (("all", rows), ("best", rows[:GENOMES]), ("others", rows[GENOMES:])):
        found = spearmanr([r["fitness"] for r in chosen], [r["test"] for r in chosen])
        said_of[part] = {"spearman": round(float(found.statistic), 3), "p": float(f"{found.pvalue:.2g}")}
    write_json(STUDY, {**entry, "genomes": len(ranked), "correlation": said_of, "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--cache", type=Path, help="decoded images, searches and claims, outside the repository")
    parser.add_argument("--queue", type=Path)
    parser.add_argument("--workers", type=int, default=1, help="processes that work off the queue")
    parser.add_argument("--model", default=DEFAULTS["model"])
    parser.add_argument("--method", default=DEFAULTS["method"])
    parser.add_argument("--sparsity", type=float, default=DEFAULTS["sparsity"])
    parser.add_argument("--images", type=int, default=DEFAULTS["images"])
    parser.add_argument("--seed", type=int, default=DEFAULTS["seed"])
    parser.add_argument("--options", default="{}", help="further options of calibrate, as JSON")
    parser.add_argument("--study", action="store_true")
    parser.add_argument("--table", action="store_true")
    said = parser.parse_args()
    if said.table:
        from unipts_table import write

        write()
    elif said.study:
        study(said)
    elif said.queue is None:
        torch.set_num_threads(1)
        entry = {name: getattr(said, name) for name in DEFAULTS} | {"options": json.loads(said.options)}
        if not (RESULTS / f"{name_of(entry)}.json").exists():
            run(entry, load_data(said.data, cache=said.cache), said.weights, said.cache)
    else:
        others = [multiprocessing.get_context("spawn").Process(target=work_off, args=(said,)) for _ in range(said.workers - 1)]
        for each in others:
            each.start()
        work_off(said)
        for each in others:
            each.join()


if __name__ == "__main__":
    main()
