"""Processes that train together: `processes.py FOLDER RANK WORLD TASK...` joins the others and saves what it ends with."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fxsparse.errors import Error
from fxsparse.sparsity.chance import generator
from fxsparse.training import SET, SRSTE, RigL, Sparsifier
from fxsparse.training.checkpoint import save_checkpoint
from fxsparse.training.data import Data, Images
from fxsparse.training.recipe import Recipe
from fxsparse.training.trainer import Trainer
from tests.training.small import batch, network, sgd

ROOT = Path(__file__).resolve().parents[2]
STEPS, SIZE = 12, 16


def method(name: str, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> Sparsifier:
    if name == "sr-ste":
        return SRSTE(model, optimizer, exclude=["0"])
    kind = RigL if name == "rigl" else SET
    return kind(model, optimizer, 0.2, steps=STEPS * 2, interval=3, seed=seed)


def run(name: str, rank: int, world: int) -> dict[str, Any]:
    """Train on this rank's part of each batch; in float64, so that the order of sums does not decide on masks."""
    torch.set_num_threads(1)
    plain = network(norms=False).double()
    model: nn.Module = plain if world == 1 else nn.parallel.DistributedDataParallel(plain)
    optimizer = sgd(model)
    sparsifier = method(name, model, optimizer)
    history = []
    for step in range(STEPS):
        images, labels = batch(step, SIZE)
        mine = slice(rank * SIZE // world, (rank + 1) * SIZE // world)
        optimizer.zero_grad()
        F.cross_entropy(model(images[mine].double()), labels[mine]).backward()
        sparsifier.step()
        history.append({key: mask.clone() for key, mask in sparsifier.masks.items()})
    return {"masks": history, "model": dict(plain.state_dict()), "names": list(sparsifier.masks)}


def sharded() -> str:
    """What is said of a model that FSDP2 has sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = network(norms=False)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    try:
        RigL(model, sgd(model), 0.2, steps=10)
    except Error as error:
        return str(error)
    return "no error"


def other_seeds(rank: int) -> str:
    """What is said when ranks disagree on the masks."""
    model = nn.parallel.DistributedDataParallel(network(norms=False))
    try:
        method("set", model, sgd(model), seed=rank)
    except Error as error:
        return str(error)
    return "no error"


def started(folder: Path, world: int, *tasks: str) -> list[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.training.processes", str(folder)]
    return [
        subprocess.Popen([*command, str(rank), str(world), *tasks], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(world)
    ]


def trained(folder: Path | None) -> dict[str, Any]:
    """A run of the trainer: killed in the first try (here: an error in the middle of an epoch), and resumed."""
    recipe = Recipe("none", "none", method="rigl", options={"density": 0.3, "interval": 3}, epochs=2, batch=16, lr=0.05, checkpoint_every=2)
    pixels, labels = torch.randint(0, 255, (64, 6, 6, 3), generator=generator("pixels"), dtype=torch.uint8), torch.arange(64) % 4
    data = Data(Images(pixels[:48], labels[:48]), Images(pixels[48:], labels[48:]), tuple("abcd"))
    plain = Trainer._step

    def step(self: Trainer, *batch: torch.Tensor) -> None:
        if self.step == 5:
            raise KeyboardInterrupt
        plain(self, *batch)

    Trainer._step = step  # type: ignore[method-assign, assignment]
    with contextlib.suppress(KeyboardInterrupt):
        Trainer(recipe, folder, model=network(norms=False), data=data).run()
    Trainer._step = plain  # type: ignore[method-assign]
    trainer = Trainer(recipe, folder, model=network(norms=False), data=data)
    result = trainer.run(resume=True)
    return {"lines": list(result.epochs), "model": dict(trainer.model.state_dict())}


def task(name: str, rank: int, world: int) -> dict[str, Any]:
    if name == "trainer":
        return trained(Path(sys.argv[1]) / "run")
    if name in ("sharded", "other-seeds"):
        return {"said": sharded() if name == "sharded" else other_seeds(rank)}
    return run(name, rank, world)


def main() -> None:
    folder, rank, world, tasks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder.resolve()}/meeting", rank=rank, world_size=world)
    try:
        save_checkpoint(folder / f"{rank}.pt", {name: task(name, rank, world) for name in tasks})
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
