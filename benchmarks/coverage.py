"""The coverage matrix: every float model of torchvision, one model of each timm family, the same checks for each.

    python benchmarks/coverage.py --run torchvision       # resumable: one small JSON file a model
    python benchmarks/coverage.py --run timm
    python benchmarks/coverage.py --analyse timm          # every architecture of timm, without weights; resumable
    python benchmarks/coverage.py --table                 # writes docs/coverage.md from those files

Checks: trace and analyse; remove a random 30 % of the units of every group; prove the result in float64; a training step of the result;
regrow, and compare every tensor with the original, bit for bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import json
import random
import re
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import fxsparse
from fxsparse.models import build, list_models, small_options, timm_family_models
from fxsparse.surgery.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "coverage"
ANALYSES = ROOT / "benchmarks" / "results" / "timm-analysis.jsonl"
LITTLE = 0.9  # of its parameters prunable: below that, a network is listed with the reasons


class TooLong(Exception):
    """The time limit of one model is over."""


def random_plan(network: fxsparse.Network, seed: int, share: float) -> dict[str, list[int]]:
    """A random `share` of the units of every prunable group goes."""
    chance = random.Random(seed)
    return {
        group.name: sorted(chance.sample(group.units, len(group.units) - int(len(group.units) * share)))
        for group in network.groups
        if group.prunable
    }


def without_paths(text: str) -> str:
    """Paths of this machine, shortened to the file's name."""
    return re.sub(r"/[^ :]*/", "", text)


def prunable_share(network: fxsparse.Network) -> float:
    """Parameters with at least one prunable axis, as a share of all."""
    axes = {member.tensor for group in network.groups if group.prunable for member in group.members}
    sizes = {key: tensor.numel() for key, tensor in network.module.named_parameters()}
    return sum(count for key, count in sizes.items() if key in axes) / max(1, sum(sizes.values()))


def fingerprints(module: torch.nn.Module) -> list[tuple[str, torch.Size, str]]:
    """Every tensor of a state dict by name, shape and the hash of its bits: as good as a copy, and needs no memory."""

    def bits(tensor: Tensor) -> Any:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()

    return [(key, t.shape, hashlib.blake2b(bits(t), digest_size=16).hexdigest()) for key, t in module.state_dict().items()]


def training_step(network: fxsparse.Network, inputs: tuple[Any, ...]) -> str:
    """One SGD step of the shrunk module, in train mode where it runs in train mode on these inputs."""
    module = network.module
    mode = "train"
    try:
        module.train()
        out = module(*inputs)
    except Exception:
        mode = "eval"
        module.eval()
        out = module(*inputs)
    leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not leaves:
        return "no gradient reaches the outputs"
    losses = [leaf.float().square().mean() for leaf in leaves if leaf.numel()]
    if not losses:
        return "nothing is detected with random weights"
    torch.stack(losses).sum().backward()
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    return mode


def check(spec: str, options: dict[str, Any]) -> dict[str, Any]:
    """All checks of one model; whatever fails raises."""
    loaded = build(spec, targets=spec.startswith("torchvision:"), **options)
    started = time.perf_counter()
    network = fxsparse.trace(loaded.model, loaded.inputs)
    result: dict[str, Any] = {"trace_s": round(time.perf_counter() - started, 3)}
    result["whole"] = network.origin.islands == ("",)
    result["notes"] = [without_paths(note.splitlines()[0])[:300] for note in network.notes]
    result["groups"] = sum(group.prunable for group in network.groups)
    result["units"] = sum(len(group.units) for group in network.groups if group.prunable)
    result["parameters"] = sum(p.numel() for p in loaded.model.parameters())
    result["prunable_share"] = round(prunable_share(network), 4)
    before = fingerprints(loaded.model)
    started = time.perf_counter()
    small = network.shrink(random_plan(network, 0, 0.3))
    result["shrink_s"] = round(time.perf_counter() - started, 3)
    result["left"] = round(sum(p.numel() for p in small.module.parameters()) / result["parameters"], 4)
    if fingerprints(small.regrow().module) != before or fingerprints(loaded.model) != before:
        raise AssertionError("regrow() is not bit-identical")
    small = dataclasses.replace(small, journal=Journal())  # the largest models would not fit beside the proof
    proof = fxsparse.verify(network, small, inputs=build(spec, **options).inputs)
    result["max_error"], result["effect"] = proof.max_error, proof.effect
    if not proof.effect > 1e-9:
        raise AssertionError("the removal changed nothing: the proof says nothing")
    result["training"] = training_step(small, loaded.inputs)
    return result


def models(zoo: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if zoo == "torchvision":
        for name in list_models("torchvision"):
            spec = name if ":" in name else f"torchvision:{name}"
            yield spec, small_options(spec)
    else:
        for family in timm_family_models():
            yield family.spec, dict(family.options)


def _alarm(_signal: int, _frame: FrameType | None) -> None:
    raise TooLong


def attempt(limit: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work says, or `why` it ended without a result; on one thread, for so many seconds at most."""
    signal.signal(signal.SIGALRM, _alarm)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.alarm(limit)
    try:
        return work()
    except TooLong:
        return {"why": f"not done in {limit} s on one thread"}
    except Exception as error:
        return {"why": without_paths(f"{type(error).__name__}: {error}")[:600]}
    finally:
        signal.alarm(0)


def run(zoo: str, only: str | None, limit: int) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for spec, options in models(zoo):
        path = RESULTS / f"{spec.replace(':', '_').replace('/', '_')}.json"
        if (only and only not in spec) or (path.exists() and not only):
            continue
        result = attempt(limit, lambda spec=spec, options=options: check(spec, options))  # type: ignore[misc]
        result = {"ok": "why" not in result, **result}
        path.write_text(json.dumps({"model": spec, **result}, indent=1) + "\n")
        print("ok  " if result["ok"] else "FAIL", spec, result.get("why", ""), flush=True)
        gc.collect()


def analyse(spec: str) -> dict[str, Any]:
    """Trace and analyse a model that has no weights."""
    with torch.device("meta"):
        loaded = build(spec)
    started = time.process_time()
    network = fxsparse.trace(loaded.model, loaded.inputs)
    share = prunable_share(network)
    result: dict[str, Any] = {
        "seconds": round(time.process_time() - started, 2),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "whole": network.origin.islands == ("",),
        "prunable_share": round(share, 4),
    }
    if share < LITTLE:
        ordinary = ("convolution works along kx", "convolution works along ky", "the network's input", "the network's output")
        reasons = {group.reason for group in network.groups if not group.prunable and group.reason not in ordinary}
        result["reasons"] = sorted(reasons)[:4]
    return result


def analyse_all(only: str | None, limit: int) -> None:
    """A line for each model in one file."""
    known = {json.loads(line)["model"] for line in ANALYSES.read_text().splitlines()} if ANALYSES.exists() else set()
    for spec in list_models("timm"):
        if spec in known or (only and only not in spec):
            continue
        result = attempt(limit, lambda spec=spec: analyse(spec))  # type: ignore[misc]
        with ANALYSES.open("a") as file:
            file.write(json.dumps({"model": spec, **result}) + "\n")
        gc.collect()


def analyses() -> list[str]:
    """What the analysis of all architectures says, in lines."""
    results = [json.loads(line) for line in ANALYSES.read_text().splitlines()]
    good = [r for r in results if "why" not in r]
    shares = [r["prunable_share"] for r in good]
    little = sorted((r for r in good if r["prunable_share"] < LITTLE), key=lambda r: (r["prunable_share"], r["model"]))
    small = sorted(r["seconds"] for r in good if r["parameters"] < 100e6)
    return [
        f"## All of timm, analysed: {len(good)} of {len(results)}",
        "",
        "Every architecture of the installed timm on meta tensors (`python benchmarks/coverage.py --analyse timm`): traced and analysed,",
        f"not changed. {sum(r['whole'] for r in good)} are traced as a whole. Of {sum(s >= 0.99 for s in shares)}, 99 % and more of the",
        f"parameters can lose a channel; of {len(little)}, less than {LITTLE:.0%}. Below 100 M parameters it takes",
        f"{statistics.median(small):.2f} s in the median, on one thread of a busy machine.",
        "",
        "| model | parameters prunable | protected for |",
        "|---|---|---|",
        *(f"| {r['model'].partition(':')[2]} | {r['prunable_share']:.1%} | {'; '.join(r['reasons'])} |" for r in little),
        "",
        *(f"- {r['model']}: {r['why']}" for r in results if "why" in r),
    ]


def table() -> str:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Coverage",
        "",
        "Made by `python benchmarks/coverage.py --table` from `benchmarks/results/coverage`; each row by `--run` on one CPU thread.",
        "Every model: trace and analyse, remove a random 30 % of every group, prove the result in float64,",
        "one training step, regrow bit for bit.",
        "",
        "Budgets reached on all of torchvision's classification networks: [pruning](pruning.md#figures).",
        "",
    ]
    for zoo in ("torchvision", "timm"):
        rows = [r for r in results if r["model"].startswith(zoo)]
        good = [r for r in rows if r["ok"]]
        lines += [f"## {zoo}: {len(good)} of {len(rows)}", ""]
        lines += [
            "| model | traced | groups | parameters prunable | trace, s | shrink, s | largest error | effect |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {r['model'].partition(':')[2]} | {'whole' if r['whole'] else 'in parts'} | {r['groups']} | {r['prunable_share']:.1%} "
            f"| {r['trace_s']:.2f} | {r['shrink_s']:.2f} | {r['max_error']:.0e} | {r['effect']:.2f} |"
            for r in good
        ]
        bad = [r for r in rows if not r["ok"]]
        lines += ["", f"### Not passed: {len(bad)}", ""] + [f"- {r['model']}: {r['why']}" for r in bad] + [""]
    return "\n".join([*lines, *(analyses() if ANALYSES.exists() else [])]).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=("torchvision", "timm"))
    parser.add_argument("--analyse", choices=("timm",))
    parser.add_argument("--only", help="models whose name contains this, even if they have a result")
    parser.add_argument("--limit", type=int, default=240, help="seconds for each model")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.run:
        run(given.run, given.only, given.limit)
    if given.analyse:
        analyse_all(given.only, given.limit)
    if given.table:
        (ROOT / "docs" / "coverage.md").write_text(table())


if __name__ == "__main__":
    main()
