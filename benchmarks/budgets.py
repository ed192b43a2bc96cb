"""Budgets on torchvision's classification networks: `python benchmarks/budgets.py --run`, then `--table` for docs/pruning.md.

Each network is pruned by magnitude, with random weights, to half its MACs and to half its parameters; what is reached, and in which time.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from document import write_between

import fxsparse
from fxsparse.models import build, list_models
from fxsparse.passes import Prune
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "budgets.json", ROOT / "docs" / "pruning.md"
FAMILIES = (
    *("alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception", "maxvit", "mnasnet", "mobilenet", "regnet"),
    *("resnet", "resnext", "shufflenet", "squeezenet", "swin", "vgg", "vit", "wide_resnet"),
)


def names() -> list[str]:
    known = (name.partition(":")[2] for name in list_models("torchvision"))
    return [n for n in known if any(n.startswith(f) for f in FAMILIES) and not n.endswith("fpn") and "ssd" not in n]


def one(name: str) -> dict[str, Any]:
    loaded = build(f"torchvision:{name}")
    began = time.perf_counter()
    network = fxsparse.trace(loaded.model, loaded.inputs)
    line: dict[str, Any] = {"name": name, "trace_seconds": time.perf_counter() - began}
    for budget in ("macs", "parameters"):
        began = time.perf_counter()
        try:
            small = Prune(**{budget: 0.5})(network).network  # type: ignore[arg-type]
            reached = small.macs / network.macs if budget == "macs" else small.parameter_count / network.parameter_count
            line[budget] = {"reached": reached, "seconds": time.perf_counter() - began}
        except fxsparse.Error as error:
            line[budget] = {"error": str(error)}
    return line


def run(most: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else []
    done = {line["name"] for line in found}
    for name in names():
        parameters = sum(p.numel() for p in build(f"torchvision:{name}").model.parameters()) if name not in done else 0
        if name not in done and parameters <= most * 1_000_000:
            found.append(one(name))
            write_json(RESULT, found)
            print(found[-1], flush=True)


def table() -> str:
    rows = ["| network | trace s | MACs reached (0.5 asked) | s | parameters reached (0.5 asked) | s |", "|---|---|---|---|---|---|"]
    for line in sorted(json.loads(RESULT.read_text(encoding="utf-8")), key=lambda each: each["name"]):
        cells = [line["name"], f"{line['trace_seconds']:.2f}"]
        for budget in ("macs", "parameters"):
            said = line[budget]
            cells += [said["error"], ""] if "error" in said else [f"{said['reached']:.4f}", f"{said['seconds']:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--most", type=int, default=150, help="leave out networks of more million parameters")
    parser.add_argument("--table", action="store_true")
    said = parser.parse_args()
    if said.run:
        run(said.most)
    if said.table:
        write_between(DOCUMENT, "budgets", table())


if __name__ == "__main__":
    main()
