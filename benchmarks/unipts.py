"""Post-training sparsity of ResNet-20 and ResNet-32 on CIFAR-10.

    python benchmarks/unipts.py --data cifar10/ --weights resnet20.th --method unipts

One run writes one file into benchmarks/results/unipts, and is not repeated while it is there. `--table` writes the table in docs/unipts.md
from the files. Calibration images are drawn from the training images; the accuracy is that after the last step on the 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

import fxsparse
from fxsparse.models import build
from fxsparse.training import calibrate
from fxsparse.training.augment import Normalise
from fxsparse.training.data import load_data
from fxsparse.training.evaluate import evaluate
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "unipts", ROOT / "docs" / "unipts.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def run(said: argparse.Namespace) -> None:
    options = json.loads(said.options)
    extra = "".join(f"-{key}{value}" for key, value in sorted(options.items()))
    name = f"{said.model.partition(':')[2]}-{said.method}-{said.sparsity:g}-{said.images}-seed{said.seed}{extra}"
    path = RESULTS / f"{name}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    data, normalise = load_data(said.data, cache=said.cache), Normalise()
    dense = build(said.model, said.weights).model
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(said.seed))[: said.images]
    pixels, labels = data.train[chosen]
    batches = [(normalise(pixels[i : i + 256]), labels[i : i + 256]) for i in range(0, len(chosen), 256)]
    work = said.cache / f"{name}-search.json" if said.cache else None
    result = calibrate(dense, batches, said.sparsity, said.method, seed=said.seed, search_file=work, **options)
    found: dict[str, Any] = {
        "model": said.model, "method": said.method, "options": options, "images": said.images, "seed": said.seed,
        "sparsity": result.sparsity, "accuracy": evaluate(result.model, data.test, normalise)[0], "agreement": result.agreement,
        "dense": evaluate(dense, data.test, normalise)[0], "seconds": result.seconds, "losses": result.losses,
        "searched": len(result.searched), "torch": torch.__version__, "fxsparse": fxsparse.__version__, "machine": platform.machine(),
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(path, found)


def table() -> str:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        line = json.loads(path.read_text(encoding="utf-8"))
        key = (line["model"], round(line["sparsity"], 3), line["images"], line["method"], json.dumps(line["options"], sort_keys=True))
        found.setdefault(key, []).append(line)
    rows = ["| model | sparsity | images | method | options | accuracy | seeds | seconds |", "|---|---|---|---|---|---|---|---|"]
    for (model, sparsity, images, method, options), lines in sorted(found.items()):
        scores = [100 * line["accuracy"] for line in lines]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        seconds = statistics.median(line["seconds"] for line in lines)
        cells = [model, f"{sparsity:.1%}", images, method, f"`{options}`", f"{statistics.mean(scores):.1f}{spread}", len(lines)]
        rows.append(f"| {' | '.join(map(str, cells))} | {seconds:.0f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--cache", type=Path, help="decoded images and searches, outside the repository")
    parser.add_argument("--model", default="fxsparse:resnet20")
    parser.add_argument("--method", default="unipts")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", default="{}", help="further options of calibrate, as JSON")
    parser.add_argument("--table", action="store_true")
    said = parser.parse_args()
    if not said.table:
        run(said)
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
