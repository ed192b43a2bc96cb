"""Half the MACs, here and with Torch-Pruning, side by side: `python benchmarks/peers_prune.py --run`, then `--table` for docs/pruning.md.

Both rank by magnitude over all groups, with the same random weights, on one thread, and lose at most 95 % of a group. Torch-Pruning has no
budget: as its own examples do, it prunes in small steps (50 to 95 % of the channels) and counts after each, until half the MACs are left.
Time is from the model to the result, analysis and counting included. What is left is counted by one and the same meter, on the result.
Each network has a process of its own, and so many seconds.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from document import write_between
from torch import nn

import fxsparse
from fxsparse.models import build
from fxsparse.passes import Prune
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "peers_prune.json", ROOT / "docs" / "pruning.md"
NETWORKS = (
    *("resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0"),
    *("shufflenet_v2_x1_0", "squeezenet1_1", "googlenet", "regnet_x_400mf", "resnext50_32x4d", "convnext_tiny", "swin_t", "vit_b_32"),
)
SHARE, STEPS, MOST = 0.5, 50, 0.95


def ours(model: nn.Module, inputs: tuple[Any, ...]) -> fxsparse.Network:
    return Prune(macs=SHARE, max_ratio=MOST)(fxsparse.trace(model, inputs)).network


def theirs(model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    import torch_pruning as peer

    outputs = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    classes = model(*inputs).shape[-1]
    last = [m for m in outputs if getattr(m, "out_features", getattr(m, "out_channels", None)) == classes][-1:]
    pruner = peer.pruner.BasePruner(
        model,
        inputs,
        importance=peer.importance.MagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=MOST,
        max_pruning_ratio=MOST,
        iterative_steps=STEPS,
        ignored_layers=last,
        num_heads={m: m.num_heads for m in attention},
    )
    dense, _ = peer.utils.count_ops_and_params(model, inputs)
    for _ in range(STEPS):
        pruner.step()
        if peer.utils.count_ops_and_params(model, inputs)[0] <= SHARE * dense:
            break
    return model


def one(name: str, side: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    loaded = build(f"torchvision:{name}")
    dense = fxsparse.trace(loaded.model, loaded.inputs)
    model = copy.deepcopy(loaded.model).eval()
    began = time.perf_counter()
    small = (ours if side == "fxsparse" else theirs)(model, loaded.inputs)
    seconds = time.perf_counter() - began
    left = small if isinstance(small, fxsparse.Network) else fxsparse.trace(small, loaded.inputs)
    with torch.no_grad():
        left(*loaded.inputs)
    return {
        "seconds": seconds,
        "macs": left.macs / dense.macs,
        "parameters": left.parameter_count / dense.parameter_count,
        "torch": torch.__version__,
    }


def run(limit: int) -> None:
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in NETWORKS:
        for side in ("fxsparse", "torch-pruning"):
            if side not in found.setdefault(name, {}):
                found[name][side] = apart(name, side, limit)
                write_json(RESULT, found)
                print(name, side, found[name][side], flush=True)


def apart(name: str, side: str, limit: int) -> dict[str, Any]:
    """In a process of its own: some networks never come back."""
    command = [sys.executable, __file__, "--one", name, "--side", side]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {limit} s"}
    lines = (done.stdout if not done.returncode else done.stderr).strip().splitlines()
    if done.returncode:
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    said: dict[str, Any] = json.loads(lines[-1])
    return said


def table() -> str:
    rows = [
        "| network | fxsparse: s | MACs left | parameters left | Torch-Pruning: s | MACs left | parameters left |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sides in json.loads(RESULT.read_text(encoding="utf-8")).items():
        if len(sides) < 2:
            continue  # not measured yet
        cells = [name]
        for side in ("fxsparse", "torch-pruning"):
            said = sides[side]
            known = "error" not in said
            cells += (
                [f"{said['seconds']:.2f}", f"{said['macs']:.4f}", f"{said['parameters']:.3f}"] if known else [said["error"][:90], "", ""]
            )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--limit", type=int, default=120, help="seconds for each network and side")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["fxsparse", "torch-pruning"], help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        print(json.dumps(one(said.one, said.side)))
    if said.run:
        run(said.limit)
    if said.table:
        write_between(DOCUMENT, "peers", table())


if __name__ == "__main__":
    main()
