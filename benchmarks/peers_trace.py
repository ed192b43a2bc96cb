"""From a model to its groups, and to half its channels, side by side with Torch-Pruning and torch-kirigami over torchvision's models.

    python benchmarks/peers_trace.py --run                # resumable: every model x tool in a process of its own, with a time limit
    python benchmarks/peers_trace.py --table              # writes the tables of docs/peers.md

Each tool reads the same model with random weights and the same example inputs, and then removes half the channels of each of its groups
by magnitude. Before that it has read and pruned a network of two layers, so that imports do not count. Memory is the growth of the process
over what it held just before, at its highest. What is left must run, and give outputs of the shapes that it gave before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from document import write_between
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxsparse
from fxsparse.criteria.base import Data, as_criterion, scored
from fxsparse.models import build, list_models
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "peers_trace", ROOT / "docs" / "peers.md"
SHARE = 0.5
SIDES = ("fxsparse", "torch-pruning", "torch-kirigami")
FEW = (  # what torch-kirigami is tried on: it needs a minute where the others need a second
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t", "mobilenet_v3_small"),
    *("regnet_y_400mf", "resnet18", "resnet50", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_32"),
)
Told = Callable[..., None]


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


class Measured:
    """Seconds, and the highest growth of the process in MB, of a block."""

    def __enter__(self) -> Measured:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # memory that was used and is free again counts as not held
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts again
        self.held, self.began = status("VmRSS"), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = round(time.perf_counter() - self.began, 3)
        self.mb = round((status("VmHWM") - self.held) / 1e6, 1)


def shapes(model: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(leaf.shape) for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def ours(model: nn.Module, inputs: tuple[Any, ...], told: Told) -> nn.Module:
    with Measured() as analysis:
        network = fxsparse.trace(model, inputs)
        groups = sum(group.prunable for group in network.groups)
    told(groups_s=analysis.seconds, analysis_mb=analysis.mb, groups=groups)
    with Measured() as pruning:
        scores = scored(as_criterion("magnitude"), network, [group.name for group in network.groups if group.prunable], Data())
        plan = {name: numpy.argsort(-found)[: len(found) - int(len(found) * SHARE)].tolist() for name, found in scores.items()}
        small = network.shrink(plan)
    told(pruned_s=round(analysis.seconds + pruning.seconds, 3), pruning_mb=pruning.mb)
    del small
    with Measured() as copying:
        copies = [tensor.clone() for tensor in model.state_dict().values()]
    del copies
    with Measured() as shrinking:
        small = network.shrink(plan)
    remembered = sum(tensor.nbytes for tensor in small.journal.tensors.values())
    result = sum(tensor.nbytes for tensor in small.tensors().values())
    told(shrink_s=shrinking.seconds, copy_s=copying.seconds, shrink_mb=shrinking.mb)
    told(journal_mb=round(remembered / 1e6, 1), result_mb=round(result / 1e6, 1))
    return small.module


def torch_pruning(model: nn.Module, inputs: tuple[Any, ...], told: Told) -> nn.Module:
    import torch_pruning as peer

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
    widths = {shape[-1] if len(shape) < 4 else shape[1] for shape in shapes(model, inputs) if len(shape) > 1}
    last = [m for m in layers if getattr(m, "out_features", getattr(m, "out_channels", None)) in widths][-2:]
    with Measured() as analysis:
        graph = peer.DependencyGraph().build_dependency(model, inputs)
        groups = sum(1 for _ in graph.get_all_groups(ignored_layers=last))
    told(groups_s=analysis.seconds, analysis_mb=analysis.mb, groups=groups)
    with Measured() as pruning:
        pruner = peer.pruner.BasePruner(
            model,
            inputs,
            importance=peer.importance.MagnitudeImportance(p=2),
            pruning_ratio=SHARE,
            ignored_layers=last,
            num_heads={m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)},
        )
        pruner.step()
    told(pruned_s=pruning.seconds, pruning_mb=pruning.mb)
    return model


def torch_kirigami(model: nn.Module, inputs: tuple[Any, ...], told: Told) -> nn.Module:
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, Pruner

    with Measured() as analysis:
        graph = DependencyGraph.build(model, args=inputs)
        pruner = Pruner(model, graph=graph)
        candidates = pruner.discover_candidates()
    told(groups_s=analysis.seconds, analysis_mb=analysis.mb)
    with Measured() as pruning:
        pruner.prune(candidates, budget=ChannelRatio(SHARE), strategy=Greedy(GroupMagnitude(p=2), max_trials=10**9))
    told(pruned_s=round(analysis.seconds + pruning.seconds, 3), pruning_mb=pruning.mb)
    return model


TOOLS = {"fxsparse": ours, "torch-pruning": torch_pruning, "torch-kirigami": torch_kirigami}


def one(name: str, side: str, threads: int) -> None:
    """Prints what is known so far, line by line: the last one stands even where the time runs out."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    TOOLS[side](
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval(), (torch.ones(1, 3, 4, 4),), lambda **_: None
    )
    loaded = build(f"torchvision:{name}")
    model, known = loaded.model.eval(), {"threads": threads, "torch": torch.__version__}
    known["weights_mb"] = round(sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6, 1)
    known["parameters"] = parameters = sum(p.numel() for p in model.parameters())

    def told(**news: Any) -> None:
        known.update(news)
        print(json.dumps(known), flush=True)

    before = shapes(model, loaded.inputs)
    small = TOOLS[side](model, loaded.inputs, told)
    left = sum(p.numel() for p in small.parameters()) / parameters
    after = shapes(small.eval(), loaded.inputs)
    told(parameters_left=round(left, 4), **({} if detects(name) or before == after else {"error": f"gives {after[:2]}, not {before[:2]}"}))


def detects(name: str) -> bool:
    """Detection models return as many boxes as they find."""
    return any(word in name for word in ("rcnn", "ssd", "retinanet", "fcos"))


def apart(name: str, side: str, threads: int, limit: int) -> dict[str, Any]:
    """In a process of its own: some networks never come back."""
    command = [sys.executable, __file__, "--one", name, "--side", side, "--threads", str(threads)]
    error = None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        said = done.stdout
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            error = lines[-1][:300] if lines else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        error = f"not done in {limit} s"
    lines = [line for line in said.splitlines() if line.startswith("{")]
    known: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return {**known, "error": error} if error else known


def models() -> list[str]:
    return [spec.removeprefix("torchvision:") for spec in list_models("torchvision")]


def known(side: str) -> dict[str, Any]:
    path = RESULTS / f"{side}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def run(sides: list[str], only: str | None, threads: int, limit: int, seconds: float, busy: bool) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for side in sides:
        names = list(FEW) if side == "torch-kirigami" and not only else models()
        for name in reversed(names) if busy else names:
            there = known(side).get(name)
            done = there is not None and not only and (busy or not there.get("busy"))
            if (only and only not in name) or done or time.monotonic() - began > seconds:
                continue
            said = apart(name, side, threads, limit)
            if busy:
                said["busy"] = True
            write_json(RESULTS / f"{side}.json", dict(sorted({**known(side), name: said}.items())))
            print(name, side, said, flush=True)


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def outcome(said: dict[str, Any]) -> list[str]:
    """Groups and pruned in seconds, and what went wrong in words."""
    wrong = said.get("error", "").replace("|", "/")
    mark = " †" if said.get("busy") and "groups_s" in said else ""
    return [seconds(said.get("groups_s")) + mark, f"*{wrong[:70]}*" if wrong else seconds(said.get("pruned_s")) + mark]


def summary(found: dict[str, dict[str, Any]]) -> list[str]:
    """What the tables say, in one line for each tool."""
    lines = []
    for side in SIDES:
        said = found[side]
        done = {name: each for name, each in said.items() if "error" not in each and "pruned_s" in each}
        late = sum("not done" in each.get("error", "") for each in said.values())
        text = f"- {side}: {len(done)} of {len(said)} networks pruned"
        if late:
            text += f", {late} not done in time"
        if len(said) - len(done) - late:
            text += f", {len(said) - len(done) - late} errors"
        if done:
            calm = {name: each for name, each in done.items() if not each.get("busy")}
            slowest = max(calm, key=lambda name: calm[name]["pruned_s"], default="")
            text += f"; the slowest that ended took {calm[slowest]['pruned_s']:.1f} s ({slowest})" if calm else ""
        lines.append(text + ".")
    mine, peer = found[SIDES[0]], found[SIDES[1]]
    for key, what in (("groups_s", "groups"), ("pruned_s", "a pruned network")):
        alike = [name for name in peer if name in mine and not peer[name].get("busy") and not mine[name].get("busy")]
        both = [name for name in alike if "error" not in peer[name] and key in peer[name] and key in mine[name]]
        faster = [name for name in both if peer[name][key] < mine[name][key]]
        most = max(faster, key=lambda name: mine[name][key] - peer[name][key], default=None)
        extra = f"; most on {most}, {peer[most][key]:.2f} s against {mine[most][key]:.2f} s" if most else ""
        count = f"{len(faster)} of the {len(both)} networks that both finish and no other work disturbed"
        lines.append(f"- To {what}, Torch-Pruning is the faster one on {count}{extra}.")
    quiet = {name: each for name, each in mine.items() if not each.get("busy")}
    small = {name: each for name, each in quiet.items() if each["parameters"] < 100e6}
    for title, which in (("below 100 million parameters", small), ("of all", quiet)):
        slowest = max(which, key=lambda name: which[name]["groups_s"])
        lines.append(f"- fxsparse, slowest analysis {title}: {which[slowest]['groups_s']:.2f} s ({slowest}).")
    beyond = {name: each["shrink_s"] - each["copy_s"] for name, each in quiet.items() if "shrink_s" in each}
    slowest = max(beyond, key=lambda name: beyond[name])
    lines.append(f"- fxsparse, slowest shrink beyond the time of copying the weights once: {beyond[slowest]:.2f} s ({slowest}).")
    return lines


def table() -> str:
    found = {side: known(side) for side in SIDES}
    rows = [
        *summary(found),
        "",
        "| network | MB | fxsparse: groups, s | pruned, s | Torch-Pruning: groups, s | pruned, s | torch-kirigami: groups, s | pruned, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, mine in found[SIDES[0]].items():
        cells = [name, f"{mine['weights_mb']:.0f}"] + [cell for side in SIDES for cell in outcome(found[side].get(name, {}))]
        rows.append(f"| {' | '.join(cells)} |")
    rows += [
        "",
        "Memory, in MB beyond what the process held: the analysis (of a tool that runs the network, activations included), removing half",
        "the channels by magnitude, and for fxsparse the shrink alone beside the sum of its result and its journal, which it has to hold.",
        "",
        "| network | weights | fxsparse: analysis | pruning | shrink | result + journal | Torch-Pruning: analysis | pruning |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, mine in found[SIDES[0]].items():
        peer = found[SIDES[1]].get(name, {})
        held = mine["result_mb"] + mine["journal_mb"] if "result_mb" in mine else None
        numbers = [mine["weights_mb"], mine.get("analysis_mb"), mine.get("pruning_mb"), mine.get("shrink_mb"), held]
        cells = ["" if n is None else f"{n:.0f}" for n in (*numbers, peer.get("analysis_mb"), peer.get("pruning_mb"))]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--side", action="append", choices=SIDES, help="one of the tools (default: all)")
    parser.add_argument("--only", help="models whose name contains this, even if they have a result")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=60, help="seconds for each model and tool")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after so long; run again to go on")
    parser.add_argument("--busy", action="store_true", help="other work runs beside: the times are marked, and taken anew without this")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        one(said.one, said.side[0], said.threads)
    if said.run:
        run(said.side or list(SIDES), said.only, said.threads, said.limit, said.seconds, said.busy)
    if said.table:
        write_between(DOCUMENT, "models", table())


if __name__ == "__main__":
    main()
