"""What each tool makes of small networks that hold one difficulty each; docs/peers.md: `python benchmarks/peers_small.py --run --table`.

In each network every second hidden channel is dead: the weights that make it and those that read it are zero. Half the channels are then
removed by magnitude, which means the dead ones, so that a right result gives what the network gave before. Each tool and network has a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from document import write_between
from peers_trace import SIDES, TOOLS
from torch import Tensor, nn

import fxsparse
from fxsparse.training.results import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULT, DOCUMENT = ROOT / "benchmarks" / "results" / "peers_small.json", ROOT / "docs" / "peers.md"


class Net(nn.Module):
    """Layers by name, and a function over them."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv(a: int, b: int, size: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, **options)


IMAGE, ROWS = (2, 3, 4, 4), (2, 6, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain convolutions": (lambda: Net(lambda m, x: m.b(m.a(x).relu()), a=conv(3, 16), b=conv(16, 5)), IMAGE),
    "a sum of two branches": (
        lambda: Net(lambda m, x: m.c(m.a(x).relu() + m.b(x).relu()), a=conv(3, 16), b=conv(3, 16), c=conv(16, 5)), IMAGE,
    ),
    "cat of a tensor with itself": (
        lambda: Net(lambda m, x: m.b(torch.cat([(y := m.a(x).relu()), y], 1)), a=conv(3, 16), b=conv(32, 5)), IMAGE,
    ),
    "split, one half through a layer, cat": (
        lambda: Net(lambda m, x: m.c(torch.cat([(y := m.a(x).relu().chunk(2, 1))[0], m.b(y[1]).relu()], 1)),
                    a=conv(3, 32), b=conv(16, 16), c=conv(32, 5)), IMAGE,
    ),
    "channel shuffle by views": (lambda: Net(lambda m, x: m.b(shuffled(m.a(x).relu())), a=conv(3, 16), b=conv(16, 5)), IMAGE),
    "flatten, then linear": (lambda: Net(lambda m, x: m.b(m.a(x).relu().flatten(1)), a=conv(3, 16), b=nn.Linear(256, 5)), IMAGE),
    "channels last, flatten, then linear": (
        lambda: Net(lambda m, x: m.b(m.a(x).relu().permute(0, 2, 3, 1).flatten(1)), a=conv(3, 16), b=nn.Linear(256, 5)), IMAGE,
    ),
    "grouped convolution": (
        lambda: Net(lambda m, x: m.c(m.b(m.a(x).relu()).relu()), a=conv(3, 16), b=conv(16, 16, groups=4), c=conv(16, 5)), IMAGE,
    ),
    "multiply by one channel": (
        lambda: Net(lambda m, x: m.c(m.a(x).relu() * m.b(x).sigmoid()), a=conv(3, 16), b=conv(3, 1), c=conv(16, 5)), IMAGE,
    ),
    "einsum": (
        lambda: Net(lambda m, x: m.b(torch.einsum("bnc,bnd->bdc", m.a(x).relu(), x)), a=nn.Linear(8, 16), b=nn.Linear(16, 5)), ROWS,
    ),
    "pixel shuffle": (lambda: Net(lambda m, x: m.b(nn.functional.pixel_shuffle(m.a(x).relu(), 2)), a=conv(3, 64), b=conv(16, 5)), IMAGE),
    "LSTM": (lambda: Net(lambda m, x: m.b(m.a(x)[0]), a=nn.LSTM(8, 16, batch_first=True), b=nn.Linear(16, 5)), ROWS),
    "GRU": (lambda: Net(lambda m, x: m.b(m.a(x)[0]), a=nn.GRU(8, 16, batch_first=True), b=nn.Linear(16, 5)), ROWS),
    "one layer used twice": (
        lambda: Net(lambda m, x: m.c(m.b(m.b(m.a(x).relu()).relu()).relu()),
                    a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 5)), ROWS,
    ),
    "multi-head attention": (
        lambda: Net(lambda m, x: m.c(m.b((y := m.a(x)), y, y, need_weights=False)[0]),
                    a=nn.Linear(8, 16), b=nn.MultiheadAttention(16, 4, batch_first=True), c=nn.Linear(16, 5)), ROWS,
    ),
}  # fmt: skip


def deaden(model: nn.Module, x: Tensor) -> None:
    """Every second unit of every group that may lose units is zero in every tensor that it has a part in."""
    network = fxsparse.trace(model, x)
    dead = network.shrink({group.name: group.units[::2] for group in network.groups if group.prunable})
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            for axis, kept in dead.kept[key].items():
                gone = sorted(set(range(tensor.shape[axis])) - set(kept))
                tensor.index_fill_(axis, torch.tensor(gone, dtype=torch.long), 0.0)


def one(name: str, side: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    make, shape = NETWORKS[name]
    model, x = make().eval(), torch.randn(shape)
    deaden(model, x)
    before, parameters = model(x).detach(), sum(p.numel() for p in model.parameters())
    small = TOOLS[side](model, (x,), lambda **_: None)
    after, left = small(x).detach(), sum(p.numel() for p in small.parameters()) / parameters
    difference = float((after - before).abs().max() / before.abs().max()) if after.shape == before.shape else float("inf")
    return {"left": round(left, 3), "difference": difference}


def apart(name: str, side: str, limit: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--side", side]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {limit} s"}
    lines = (done.stdout if not done.returncode else done.stderr).strip().splitlines()
    if done.returncode:
        return {"error": lines[-1][:200] if lines else f"exit status {done.returncode}"}
    said: dict[str, Any] = json.loads(lines[-1])
    return said


def verdict(said: dict[str, Any]) -> str:
    if "error" in said:
        return f"error: {said['error'][:80]}".replace("|", "/")
    if said["left"] == 1.0:
        return "removes nothing"
    right = said["difference"] < 1e-4
    return f"right, {said['left']:.0%} left" if right else f"**other outputs** (by {said['difference']:.1g} of the largest)"


def table() -> str:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [f"| {name} | {' | '.join(verdict(sides[side]) for side in SIDES)} |" for name, sides in found.items()]
    return "\n".join(["| network | fxsparse | Torch-Pruning | torch-kirigami |", "|---|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--limit", type=int, default=120, help="seconds for each network and tool")
    parser.add_argument("--one", choices=list(NETWORKS), help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        print(json.dumps(one(said.one, said.side)))
    if said.run:
        write_json(RESULT, {name: {side: apart(name, side, said.limit) for side in SIDES} for name in NETWORKS})
    if said.table:
        write_between(DOCUMENT, "small", table())


if __name__ == "__main__":
    main()
