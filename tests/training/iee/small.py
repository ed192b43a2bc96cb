"""A small run of IEE that tests can watch, kill, resume and split over processes. As a script: `small.py killed FOLDER`,
`small.py killed-channels FOLDER`, `small.py distributed FOLDER RANK WORLD` or `small.py channels FOLDER RANK WORLD`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.network import Network
from fxsparse.sparsity.chance import generator
from fxsparse.training.checkpoint import load_checkpoint, save_checkpoint
from fxsparse.training.iee import ExploitExplore, ExploitExploreChannels

STEPS = 40
OPTIONS: dict[str, Any] = {"preset": "stated", "density": 0.25, "steps": STEPS, "cycles": 2, "estimate": 3, "explore": 4, "growth": 0.4}
Watch = Callable[[ExploitExplore, int], None]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True)


def batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    chance = generator("batch", step)
    return torch.randn(size, 3, 6, 6, generator=chance), torch.randint(0, 4, (size,), generator=chance)


def train(
    model: nn.Module,
    sparsifier: Any,
    optimizer: torch.optim.Optimizer,
    *,
    start: int = 0,
    steps: int = STEPS,
    part: slice = slice(None),
    watch: Watch | None = None,
) -> None:
    """The loop as a user writes it."""
    model.train()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / (2 * STEPS))
        images, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(images[part]), labels[part]).backward()
        sparsifier.step()
        if watch is not None:
            watch(sparsifier, step)


def tensors(thing: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, in their order."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from tensors(value)


def same(a: Any, b: Any) -> bool:
    """Whether two nested containers hold the same bits."""
    ones, others = list(tensors(a)), list(tensors(b))
    return len(ones) == len(others) and all(x.dtype == y.dtype and torch.equal(bits(x), bits(y)) for x, y in zip(ones, others, strict=True))


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: 0.0 and -0.0 differ."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: ExploitExplore) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sparsifier": sparsifier.state_dict()}


class Killed(ExploitExplore):
    """Dies in the middle of a stage of the second cycle: `deadly` says which."""

    deadly = ""

    def _die(self, stage: str) -> None:
        if stage and self.steps_done and self.deadly == stage and self.calendar.cycle(self.steps_done + 1) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_step(self) -> None:
        self._die(self.stage if self.calendar.stage(self.steps_done) == self.stage else "")  # not in its first step
        super().after_step()

    def prune(self) -> None:
        self._die("prune")
        super().prune()

    def put_in_place(self, masks: Any, clear: bool) -> None:
        super().put_in_place(masks, clear)
        if self.steps_done and self.calendar.grows(self.steps_done) and self.deadly == "grow":
            os.kill(os.getpid(), signal.SIGKILL)


def killed_run(folder: Path, deadly: str) -> None:
    """Train with a checkpoint after every step, from the last one if there is any; without `deadly`, to the end."""
    Killed.deadly, Killed.__name__ = deadly, "ExploitExplore"
    model = network()
    optimizer = sgd(model)
    sparsifier = Killed(model, optimizer, criterion="taylor", **OPTIONS)
    file, start = folder / "checkpoint.pt", 0
    if file.exists():
        saved = load_checkpoint(file)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        sparsifier.load_state_dict(saved["sparsifier"])
        start = saved["step"]

    def save(sparsifier: ExploitExplore, step: int) -> None:
        if step % 3 == 0 or step == STEPS - 1:
            save_checkpoint(file, {**everything(model, optimizer, sparsifier), "step": step + 1})

    train(model, sparsifier, optimizer, start=start, watch=save)


class KilledChannels(ExploitExploreChannels):
    """The same of the channel form."""

    deadly = ""

    def _die(self, stage: str) -> None:
        if stage and self.steps_done and self.deadly == stage and self.calendar.cycle(self.steps_done + 1) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_step(self) -> None:
        self._die(self.stage if self.calendar.stage(self.steps_done) == self.stage else "")
        super().after_step()

    def prune(self) -> None:
        self._die("prune")
        super().prune()

    def _renew(self, kind: Literal["prune", "grow"], keep: Any) -> None:
        super()._renew(kind, keep)
        if kind == "grow" and self.deadly == "grow":
            os.kill(os.getpid(), signal.SIGKILL)


def killed_channels(folder: Path, deadly: str) -> None:
    """Train with a checkpoint after every second step, as `killed_run` does."""
    KilledChannels.deadly, KilledChannels.__name__ = deadly, "ExploitExploreChannels"
    file = folder / "checkpoint.pt"

    def resume(sparsifier: ExploitExploreChannels) -> int:
        if not file.exists():
            return 0
        saved = load_checkpoint(file)
        sparsifier.load_state_dict(saved["run"], saved["optimizer"])
        return int(saved["step"])

    def save(sparsifier: ExploitExploreChannels, step: int) -> None:
        if step % 2 == 0 or step == 20:
            run, optimizer = sparsifier.state_dict(), sparsifier.optimizer.state_dict()
            save_checkpoint(file, {"run": run, "optimizer": optimizer, "step": step})

    channels(0, 1, kind=KilledChannels, resume=resume, save=save)


def kill_in_every_stage(folder: Path, run: Callable[[Path, str], None]) -> None:
    """One child after the other goes on with the run, and is killed in the next stage; the last one ends it. Prints how each ended, and
    the step of its last checkpoint. Children are forks, as importing torch takes longer than the run."""
    importlib.import_module("torch._dynamo")  # the first step of an optimizer would do it, in every child
    for deadly in ("estimate", "prune", "exploit", "explore", "grow", ""):
        child = os.fork()
        if child == 0:
            run(folder, deadly)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(deadly or "end", os.waitstatus_to_exitcode(status), load_checkpoint(folder / "checkpoint.pt")["step"], flush=True)


def distributed_run(folder: Path, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    model = without_statistics()
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = sgd(model)
    sparsifier = ExploitExplore(wrapped, optimizer, criterion="taylor", **OPTIONS)
    train(wrapped, sparsifier, optimizer, part=slice(rank * 8 // world, (rank + 1) * 8 // world))
    save_checkpoint(folder / f"{rank}.pt", everything(model, optimizer, sparsifier))
    dist.destroy_process_group()


def distributed_channels(folder: Path, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    sparsifier = channels(rank, world)
    save_checkpoint(folder / f"{rank}.pt", {"run": sparsifier.state_dict(), "optimizer": sparsifier.optimizer.state_dict()})
    dist.destroy_process_group()


def channels(
    rank: int, world: int, *, kind: type[ExploitExploreChannels] = ExploitExploreChannels, resume: Any = None, save: Any = None
) -> ExploitExploreChannels:
    """A run of the channel form, on a part of every batch."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = fxsparse.trace(nn.Sequential(*layers, nn.Linear(8, 4)), torch.randn(2, 3, 6, 6))
    wrapped: list[nn.Module] = []

    def wrap(network: Network) -> None:
        wrapped[:] = [nn.parallel.DistributedDataParallel(network.module) if world > 1 else network.module]

    wrap(network)
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05, momentum=0.9)
    options: dict[str, Any] = {"steps": 20, "units": 0.5, "cycles": 2, "estimate": 2, "explore": 2, "criterion": "taylor"}
    sparsifier = kind(network, optimizer, on_change=wrap, **options)
    for step in range(resume(sparsifier) if resume is not None else 0, 20):
        images, labels = batch(step)
        part = slice(rank * 8 // world, (rank + 1) * 8 // world)
        optimizer.zero_grad()
        F.cross_entropy(wrapped[0](images[part]), labels[part]).backward()
        sparsifier.step()
        if save is not None:
            save(sparsifier, step + 1)
    return sparsifier


def without_statistics() -> nn.Module:
    """A network in double precision whose output for an image does not depend on the others, so that a batch may be split."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1].startswith("killed"):
        kill_in_every_stage(Path(sys.argv[2]), killed_run if sys.argv[1] == "killed" else killed_channels)
    else:
        {"distributed": distributed_run, "channels": distributed_channels}[sys.argv[1]](
            Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
        )
