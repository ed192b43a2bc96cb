"""Latency budgets on ONNX Runtime's CPU engine, side by side with uniform pruning, budgets of MACs, and Torch-Pruning.

    python benchmarks/latency.py --run [--minutes 4] [--phases ours search final]    # goes on where it stopped, step by step
    python benchmarks/latency.py --table                # writes the tables of docs/latency.md

Batch 1, 224x224, random weights of a seed, magnitude. A network is pruned to a share of its measured latency. Then, for uniform pruning and
for budgets of MACs, the ratio is searched at which the *measured* latency is that of ours, and what is left is compared. Torch-Pruning
prunes uniformly at the same nominal ratio. At the end, all of one network are measured in turn, in one process.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from document import write_between
from torch import nn

import fxsparse
from fxsparse.budgets.latency_table import machine
from fxsparse.criteria.base import Data, as_criterion, scored
from fxsparse.engines import Timing, compare, export_onnx, ratio
from fxsparse.engines.measure import Milliseconds
from fxsparse.engines.onnxruntime import OnnxRuntime, Session
from fxsparse.models import build
from fxsparse.network import Network
from fxsparse.passes import Prune
from fxsparse.passes.prune import best
from fxsparse.passes.prune_latency import prune_to_latency
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "latency", ROOT / "docs" / "latency.md"
NETWORKS = ("resnet50", "mobilenet_v3_large", "regnet_y_1_6gf", "convnext_tiny", "vit_b_16")
SHARES = (0.5, 0.7)
PHASES = ("ours", "search", "final")
SHAPE = [1, 3, 224, 224]
SEARCHED = ("uniform", "uniform, aligned", "MACs", "MACs, aligned")
PEER = ("Torch-Pruning", "Torch-Pruning, aligned")
EQUAL = 0.01  # latencies this near are called equal
FAIR = 1.05  # of our latency, at most: who is compared in the first table
TRIES = 8
SESSIONS = 3  # of each network in the last measurement; of large ones 2, for the memory

Cell = dict[str, Any]


class Case:
    """One network: dense, and its scores."""

    def __init__(self, name: str, threads: int) -> None:
        torch.manual_seed(0)
        loaded = build(f"torchvision:{name}", shape=SHAPE)
        self.name, self.threads = name, threads
        self.model, self.inputs = loaded.model.eval(), loaded.inputs
        self.dense = fxsparse.trace(self.model, self.inputs)
        free = [group.name for group in self.dense.groups if group.prunable]
        self.scores = scored(as_criterion("magnitude", 0), self.dense, free, Data(None, None))
        self.runtime = OnnxRuntime(threads)

    def network(self, widths: Mapping[str, int]) -> Network:
        whole = {name: len(units) for name, units in self.dense.living.items()}
        return self.dense.shrink(best(self.dense, self.scores, {**whole, **widths}))

    def said(self, network: Network) -> Cell:
        """What is left, and the widths that changed."""
        kept = sum(float(self.scores[name][_positions(self.dense, network, name)].sum()) for name in self.scores)
        changed = {name: len(units) for name, units in network.living.items() if len(units) != len(self.dense.living[name])}
        return {
            "macs": network.macs / self.dense.macs,
            "parameters": network.parameter_count / self.dense.parameter_count,
            "importance": kept / sum(float(values.sum()) for values in self.scores.values()),
            "widths": changed,
        }

    def sessions(self, model: Network | nn.Module, count: int) -> list[Session]:
        """Several of one file: where the allocator puts its memory moves a session's time by a percent or two."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(model, path, inputs=None if isinstance(model, Network) else self.inputs)
            return [self.runtime.open(path, self.inputs) for _ in range(count)]


def times(built: Mapping[str, Sequence[Session]], runs: int, seconds: float, cpu: bool = False) -> dict[str, Timing]:
    """All sessions in turn; those of one network are put together. By the wall, or by the thread's own time, which other work adds
    little to."""
    once: dict[str, Callable[[], object]] = {}
    for name, line in built.items():
        once |= {f"{name}#{i}": _by_thread(each.prepare()) if cpu else each.prepare() for i, each in enumerate(line)}
    found = compare(once, runs=runs, seconds=seconds)
    return {name: Timing(np.stack([found[f"{name}#{i}"].samples for i in range(len(line))]).mean(axis=0)) for name, line in built.items()}


def _by_thread(once: Callable[[], object]) -> Callable[[], object]:
    def timed() -> Milliseconds:
        start = time.thread_time_ns()
        once()
        return Milliseconds((time.thread_time_ns() - start) / 1e6)

    return timed


def _positions(dense: Network, network: Network, name: str) -> list[int]:
    where = {unit: i for i, unit in enumerate(dense.living[name])}
    return [where[unit] for unit in network.living[name]]


# ---- the steps ------------------------------------------------------------------------------------------------------------------


def ours(case: Case, share: float) -> Cell:
    measured: list[tuple[int, int]] = []
    began = time.perf_counter()
    prune = Prune(latency=share, threads=case.threads)
    free = [group for group in case.dense.groups if group.prunable]
    found = prune_to_latency(
        case.dense,
        share,
        case.scores,
        lambda step: prune._latency_limits(case.dense, free, step),
        lambda widths: best(case.dense, case.scores, widths),
        "onnxruntime",
        case.threads,
        lambda done, of: measured.append((done, of)),
    )
    return {
        **case.said(found.network),
        "dense_ms": found.before,
        "target_ms": found.target,
        "predicted_ms": found.predicted,
        "measured_ms": found.after,
        "step": found.step,
        "layers_in_table": len(measured),
        "seconds": time.perf_counter() - began,
    }


def searched(case: Case, way: str, reference: Cell) -> Cell:
    """The ratio of MACs at which the measured latency is that of ours, to a percent, or the nearest one that was tried."""
    built = case.sessions(case.network(reference["widths"]), 2)
    align = reference["step"] if way.endswith("aligned") else 1
    asked, low, high = reference["macs"] * (1.0 if align > 1 else 0.7), 0.0, 1.0  # odd widths are slow
    found: Cell = {}
    tried: list[tuple[float, float, float]] = []
    for _ in range(TRIES):
        network = Prune(macs=float(asked), scope="local" if way.startswith("uniform") else "global", align=align)(case.dense).network
        timed = times({"ours": built, "theirs": case.sessions(network, 2)}, 15, 0.5, cpu=case.threads == 1)
        off = timed["theirs"].median / timed["ours"].median
        tried.append((asked, network.macs / case.dense.macs, off))
        if not found or abs(off - 1) < abs(found["to_ours"] - 1):
            found = {**case.said(network), "to_ours": off, "asked": asked}
        if abs(off - 1) <= EQUAL or high - low < 1e-3:
            break
        low, high = (asked, high) if off < 1 else (low, asked)
        asked = min(max(asked / off, low + 0.1 * (high - low)), high - 0.1 * (high - low))
    return {**found, "tried": tried}


def peer(case: Case, share: float, align: int) -> nn.Module:
    """Torch-Pruning, every group by the same ratio of channels."""
    import torch_pruning

    model = copy.deepcopy(case.model)
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    attention = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    torch_pruning.pruner.BasePruner(
        model,
        case.inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=1 - share,
        ignored_layers=last,
        num_heads=attention,
        round_to=align if align > 1 else None,
    ).step()
    return model.eval()


def theirs(case: Case, way: str, share: float, step: int) -> Cell:
    """What is left of it; summed importance as if each group had kept its best units, where its widths are widths of our groups."""
    try:
        model = peer(case, share, step if way.endswith("aligned") else 1)
        left = fxsparse.trace(model, case.inputs)
    except Exception as error:  # another project's: whatever it raises is its result here
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"}
    widths = {name: width for name in case.scores if (width := _width(case.dense, model, name)) is not None}
    try:
        same = case.said(case.network(widths))
    except fxsparse.Error:
        same = {"macs": 0.0, "importance": None}
    macs = left.macs / case.dense.macs
    return {
        "macs": macs,
        "parameters": left.parameter_count / case.dense.parameter_count,
        "importance": same["importance"] if abs(same["macs"] / macs - 1) < 1e-3 else None,
    }


def _width(dense: Network, model: nn.Module, name: str) -> int | None:
    """How wide a group is in another's pruned model, by the first tensor that it produces."""
    group, tensors = dense.group(name), dict(model.state_dict())
    member = next((m for m in group.members if m.role == "produces" and m.tensor in tensors), None)
    if member is None:
        return None
    now, before = tensors[member.tensor].shape[member.axis], dense.tensors()[member.tensor].shape[member.axis]
    width = now * len(group.units) / before
    return int(width) if width == int(width) and width >= 1 else None


def final(case: Case, share: float, cells: Mapping[str, Cell]) -> Cell:
    """All of them in turn."""
    count = SESSIONS if case.dense.parameter_count < 5e7 else 2
    built = {"dense": case.sessions(case.dense, count)}
    for way, cell in cells.items():
        if "widths" in cell:
            built[way] = case.sessions(case.network(cell["widths"]), count)
        elif "error" not in cell:
            built[way] = case.sessions(peer(case, share, cells["ours"]["step"] if way.endswith("aligned") else 1), count)
    timed = times(built, 20, 0.5)
    return {
        way: {**timing.as_data(), "of_dense": timing.median / timed["dense"].median, "to_ours": _interval(timing, timed["ours"])}
        for way, timing in timed.items()
    }


def _interval(timing: Any, reference: Any) -> list[float]:
    found = ratio(timing, reference)
    return [found.value, found.low, found.high]


# ---- the order of the steps -----------------------------------------------------------------------------------------------------


def missing(cells: Mapping[str, Cell], phase: str) -> list[str]:
    """What a phase has to do still; nothing before the phases that it needs."""
    before = {"ours": (), "search": ("ours",), "final": ("ours", *SEARCHED, *PEER)}[phase]
    todo = {"ours": ("ours",), "search": (*SEARCHED, *PEER), "final": ("final",)}[phase]
    return [step for step in todo if step not in cells] if all(step in cells for step in before) else []


def done(case: Case, share: float, cells: Mapping[str, Cell], step: str) -> Cell:
    if step == "ours":
        return ours(case, share)
    if step == "final":
        return final(case, share, cells)
    return searched(case, step, cells["ours"]) if step in SEARCHED else theirs(case, step, share, cells["ours"]["step"])


def run(names: list[str], shares: list[float], phases: list[str], minutes: float, threads: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.monotonic()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for phase, name in ((phase, name) for phase in phases for name in names):
        path = RESULTS / f"{name}.json"
        case = None
        for share in shares:
            for step in missing(_read(path, share), phase):
                case = case or Case(name, threads)
                cell = done(case, share, _read(path, share), step)
                found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                found["about"] = {**machine(), "threads": threads, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
                found.setdefault("shares", {}).setdefault(str(share), {})[step] = cell
                write_json(path, found)
                print(f"{time.monotonic() - began:6.0f} s  {name} {share} {step}", flush=True)
                if time.monotonic() - began > 60 * minutes:
                    print("time is up; the same command goes on from here")
                    return
    print("all is measured")


def _read(path: Path, share: float) -> dict[str, Cell]:
    cells: dict[str, Cell] = json.loads(path.read_text(encoding="utf-8"))["shares"].get(str(share), {}) if path.exists() else {}
    return cells


# ---- the tables -----------------------------------------------------------------------------------------------------------------


def table() -> str:
    return "\n\n".join((_goals(), *(_one(name, share) for name in NETWORKS for share in SHARES if _done(name, share))))


def _done(name: str, share: float) -> dict[str, Cell] | None:
    cells = _read(RESULTS / f"{name}.json", share)
    return cells if "final" in cells else None


def _goals() -> str:
    rows = [
        "| network | asked | measured | off target | prediction off | MACs: ours, best other | importance: ours, best other |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        for share in SHARES:
            cells = _done(name, share)
            if cells is None:
                continue
            mine, timed = cells["ours"], cells["final"]
            fair = [way for way in SEARCHED if timed[way]["to_ours"][0] <= FAIR]
            reached, off = timed["ours"]["of_dense"], mine["predicted_ms"] / mine["measured_ms"] - 1
            both = [_against(mine[key], [cells[way][key] for way in fair]) for key in ("macs", "importance")]
            rows.append(f"| {name} | {share:.0%} | {reached:.1%} | {reached / share - 1:+.1%} | {off:+.1%} | {both[0]} | {both[1]} |")
    return "\n".join(rows)


def _against(mine: float, others: Sequence[float]) -> str:
    best = max(others, default=0.0)
    said = f"**{mine:.1%}**" if mine > best + 0.001 else f"{mine:.1%}"
    return f"{said}, {best:.1%}"


def _one(name: str, share: float) -> str:
    cells = _done(name, share)
    assert cells is not None
    dense = cells["final"]["dense"]["median_ms"]
    mine = cells["ours"]
    rows = [
        f"**{name}, {share:.0%} of {dense:.1f} ms** (widths in steps of {mine['step']})",
        "",
        "| | predicted ms | measured ms | of dense | to ours (95 %) | MACs | parameters | importance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in ("ours", *SEARCHED, *PEER):
        cell, timed = cells[way], cells["final"].get(way)
        if timed is None:
            rows.append(f"| {way} | {cell.get('error', '')} | | | | | | |")
            continue
        predicted = f"{cell['predicted_ms']:.2f}" if way == "ours" else ""
        to = "1" if way == "ours" else "{:.3f} ({:.3f} to {:.3f})".format(*timed["to_ours"])
        importance = "" if cell["importance"] is None else f"{cell['importance']:.1%}"
        label = {"ours": f"latency {share:.0%}"}.get(way, way + (f", ratio {1 - share:.1f}" if way in PEER else ""))
        rows.append(
            f"| {label} | {predicted} | {timed['median_ms']:.2f} | {timed['of_dense']:.1%} | {to} "
            f"| {cell['macs']:.1%} | {cell['parameters']:.1%} | {importance} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=list(SHARES))
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES), help="search may run while the machine is busy")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after the step that is being done then")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    said = parser.parse_args()
    if said.run:
        run(said.only, said.shares, said.phases, said.minutes, said.threads)
    if said.table:
        write_between(DOCUMENT, "latency", table())


if __name__ == "__main__":
    main()
