"""TensorRT on a machine with a GPU: dense, pruned and 2:4-sparse engines side by side, in one table.

    python benchmarks/tensorrt_smoke.py [--model torchvision:resnet50] [--batch 1] [--precision fp16] [--align 32] [--engines 3]

Each variant is built several times with one timing cache, and all engines are measured in turn: GPU time
by events around a CUDA graph.
The row of a variant is its median engine; "spread" is how far its engines lie apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

import fxsparse
from fxsparse.engines import compare, engine, ratio
from fxsparse.engines.tensorrt import Running
from fxsparse.errors import Error
from fxsparse.models import build
from fxsparse.network import Network


def variants(spec: str, batch: int, align: int) -> dict[str, tuple[Network, bool]]:
    """Name -> network, and whether 2:4 kernels may be used."""
    model = build(spec)
    inputs = tuple(each[:1].expand(batch, *each.shape[1:]).contiguous() for each in model.inputs)
    dense = fxsparse.trace(model.model, inputs)

    def passed(text: str) -> Network:
        return fxsparse.Pipeline.parse(text)(dense).network

    return {
        "dense": (dense, False),
        "macs 0.5": (passed("prune{macs=0.5}"), False),
        f"macs 0.5, align {align}": (passed(f"prune{{macs=0.5,align={align}}}"), False),
        "2:4": (passed('mask{pattern="2:4"}'), True),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16")
    parser.add_argument("--align", type=int, default=32, help="less for narrow networks")
    parser.add_argument("--engines", type=int, default=3, help="how many of each variant")
    parser.add_argument("--seconds", type=float, default=3.0)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            table(chosen, folder)
    except Error as error:
        print(f"tensorrt_smoke: {error}", file=sys.stderr)
        return 1
    return 0


def table(chosen: argparse.Namespace, folder: str) -> None:
    built: dict[str, list[Running]] = {}
    engine("tensorrt", precision=chosen.precision)  # said before minutes of pruning, if it is not there
    for name, (network, sparse) in variants(chosen.model, chosen.batch, chosen.align).items():
        runtime = engine("tensorrt", precision=chosen.precision, sparse=sparse, timing_cache=folder)
        built[name] = [runtime.build(network) for _ in range(chosen.engines)]  # type: ignore[misc]
    first = built["dense"][0]
    first.save(Path(folder) / "dense.plan")
    again = engine("tensorrt").load(Path(folder) / "dense.plan")  # type: ignore[attr-defined]
    error = max((a.float() - b.float()).abs().max().item() for a, b in zip(again.run(*first.inputs), first.run(), strict=True))
    timed = compare(
        {f"{name}/{index}": each.prepare() for name, engines in built.items() for index, each in enumerate(engines)},
        runs=10,
        seconds=chosen.seconds,
        warmup=0.2,
        most=600.0,
    )
    about = first.describe()
    print(f"{chosen.model}, batch {chosen.batch}, {chosen.precision}; TensorRT {about['version']}, {about['gpu']}, CUDA {about['cuda']}")
    print(f"{about['method']}; saved and loaded again, outputs differ by {error:.1e}\n")
    heads = f"{'median ms':>10} {'p90':>8} {'p99':>8} {'variation':>10} {'spread':>8} {'layers':>7} {'sparse':>7}"
    print(f"{'variant':20} {heads}  to dense (95 %)")
    reference = timed["dense/0"]
    for name, engines in built.items():
        found = sorted((timed[f"{name}/{index}"] for index in range(len(engines))), key=lambda timing: timing.median)
        middle = found[len(found) // 2]
        spread = found[-1].median / found[0].median - 1
        said = engines[0].describe()
        numbers = f"{middle.median:10.3f} {middle.percentile(90):8.3f} {middle.percentile(99):8.3f} {middle.variation:10.1%} {spread:8.1%}"
        print(f"{name:20} {numbers} {said['layers']:7} {said['sparse_layers']:7}  {ratio(middle, reference)}")
        if middle.variation > 0.025:
            print(f"  {name}: variation above 2.5 %: lock the clocks, or measure longer")


if __name__ == "__main__":
    sys.exit(main())
