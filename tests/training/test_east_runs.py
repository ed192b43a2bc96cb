"""EAST in whole runs: in the trainer, killed and resumed; and in two processes, equal to one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import fxsparse
from fxsparse.passes.phase_dyrelu import dyrelus
from fxsparse.sparsity.chance import generator
from fxsparse.sparsity.counting import profile
from fxsparse.training import Sparsifier
from fxsparse.training.checkpoint import load_checkpoint, save_checkpoint
from fxsparse.training.data import Data, Images
from fxsparse.training.east import Extreme, finished, parts_of, prepared
from fxsparse.training.recipe import Recipe
from fxsparse.training.trainer import Trainer
from tests.training.small import batch, same

ROOT = Path(__file__).resolve().parents[2]
STEPS, SIZE = 16, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


def model() -> nn.Module:
    """Without batch norms: their statistics would be those of each process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stage = nn.Sequential(Block(), Block(), Block())
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


# ---- the trainer ------------------------------------------------------------------------------------------------------------------


def trainer(folder: Path | None, recipe: Recipe) -> Trainer:
    pixels, labels = torch.randint(0, 255, (64, 6, 6, 3), generator=generator("pixels"), dtype=torch.uint8), torch.arange(64) % 4
    data = Data(Images(pixels[:48], labels[:48]), Images(pixels[48:], labels[48:]), tuple("abcd"))
    return Trainer(recipe, folder, model=model(), data=data)


@pytest.mark.filterwarnings("ignore:the network falls apart")
def test_killed_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(
        "none", "none", method="east", options={"density": 0.3, "interval": 2}, epochs=4, batch=16, lr=0.05, clip=1.0, checkpoint_every=2
    )
    whole = trainer(None, recipe)
    expected = whole.run()
    plain = Trainer._step

    def step(self: Trainer, *some: Tensor) -> None:
        if self.step == 5:
            raise KeyboardInterrupt
        plain(self, *some)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Trainer, "_step", step)
        trainer(tmp_path / "run", recipe).run()
    again = trainer(tmp_path / "run", recipe)
    found = again.run(resume=True)
    assert same(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert found.epochs == expected.epochs and found.train_macs == expected.train_macs
    assert "outputs_reached" in found.epochs[-1]
    assert {float(each.beta) for _, each in dyrelus(again.model)} == {0.0}
    assert again.network is not None and isinstance(again.sparsifier, Extreme)
    result = finished(again.network, again.sparsifier.masks)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(result.module.eval()(x), again.model.eval()(x))
    assert not any(True for _ in dyrelus(result.module))


def test_what_a_recipe_asks_for() -> None:
    assert parts_of(Recipe("none", "none", method="rigl")) == ()
    (part,) = parts_of(Recipe("none", "none", method="east"))
    assert (part.dyrelu, part.sharing) == (True, 2)
    (part,) = parts_of(Recipe("none", "none", method="east", options={"dyrelu": False, "sharing": 1}))
    assert (part.dyrelu, part.sharing) == (False, 1)
    (part,) = parts_of(Recipe("none", "none", method="static", dyrelu=True))
    assert (part.dyrelu, part.sharing) == (True, 0)
    (part,) = parts_of(Recipe("none", "none", method="dense", sharing=2))
    assert (part.dyrelu, part.sharing) == (False, 2)


@pytest.mark.filterwarnings("ignore:the network falls apart")
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_only_training_needed_is_gone_from_the_result(ema: float, tmp_path: Path) -> None:
    options = {"density": 0.3, "interval": 2}
    run = trainer(tmp_path, Recipe("none", "none", method="east", options=options, epochs=4, batch=16, lr=0.05, ema=ema))
    result = run.run()
    assert isinstance(run.sparsifier, Extreme) and run.network is not None
    plain = model()
    plain.load_state_dict(load_file(tmp_path / "weights.safetensors"))  # the names are those of the model
    trained = run.model if run.average is None else run.average.module
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(plain.eval()(x), trained.eval()(x), rtol=1e-4, atol=1e-5)
    again = fxsparse.load(tmp_path / "network", model())
    assert torch.equal(again.module.eval()(x), plain(x))
    for name, mask in again.masks.items():
        assert not plain.state_dict()[name][~mask].any()
    assert result.dyrelu_parameters == run.sparsifier.dyrelu_parameters > 0
    assert result.parameters == sum(p.numel() for p in model().parameters()) - 576 + 1  # one convolution less, and a number
    living, others = sum(run.sparsifier.nonzeros.values()), sum(p.numel() for name, p in plain.named_parameters() if "bias" in name)
    assert result.nonzeros <= living + others + 1
    assert result.macs < sum(use.macs for use in profile(plain, x[:1]).uses)


@pytest.mark.parametrize("method", ["static", "set", "rigl"])
def test_the_parts_are_options_of_every_method(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"density": 0.1, "cyclic": {"cycles": 1, "part": 0.5, "high": 2.0}, "interval": 1}
    recipe = Recipe("none", "none", method=method, options=options, epochs=4, batch=16, lr=0.05, dyrelu=True, sharing=2)
    run = trainer(tmp_path, recipe)
    assert isinstance(run.sparsifier, Sparsifier)
    size = sum(p.numel() for name, p in model().named_parameters() if "weight" in name)
    unique = sum(mask.numel() for mask in run.sparsifier.masks.values())
    assert unique == size - 576 and not any("dyrelu" in name for name in run.sparsifier.masks)
    seen = {0: sum(run.sparsifier.nonzeros.values())}
    plain = run._step

    def step(pixels: Tensor, labels: Tensor) -> None:
        plain(pixels, labels)
        assert isinstance(run.sparsifier, Sparsifier)
        seen[run.step] = sum(run.sparsifier.nonzeros.values())

    run._step = step  # type: ignore[method-assign]
    run.run()
    least = round(0.1 * size)
    assert seen[0] == seen[6] == seen[12] == least and seen[3] == 2 * least
    assert fxsparse.load(tmp_path / "network", model()).edits[0].startswith("share-weights")


def test_channels_of_a_network_with_dyrelus_and_shared_weights(tmp_path: Path) -> None:
    options = {"macs": 0.6, "cycles": 1, "estimate": 2, "explore": 2}
    recipe = Recipe("none", "none", method="iee-channels", options=options, epochs=4, batch=16, lr=0.05, dyrelu=True, sharing=2, ema=0.9)
    result = trainer(tmp_path, recipe).run()
    again = fxsparse.load(tmp_path / "network", model())
    assert again.macs <= 0.6 * fxsparse.trace(model(), (torch.zeros(1, 3, 6, 6),)).macs
    assert not any("dyrelu" in key for key in again.module.state_dict())
    assert result.dyrelu_parameters > 0
    weights = load_file(tmp_path / "weights.safetensors")
    assert same(weights, dict(again.module.state_dict()))


# ---- two processes ----------------------------------------------------------------------------------------------------------------


def run(rank: int, world: int) -> dict[str, Any]:
    """Train on this rank's part of each batch, in float64, so that the order of sums does not decide on masks."""
    network: fxsparse.Network = prepared(model().double(), torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    plain = network.module.train()
    module: nn.Module = plain if world == 1 else nn.parallel.DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    sparsifier = Extreme(module, optimizer, 0.2, steps=STEPS, interval=2)
    history = []
    for step in range(STEPS):
        images, labels = batch(step, SIZE)
        mine = slice(rank * SIZE // world, (rank + 1) * SIZE // world)
        optimizer.zero_grad()
        F.cross_entropy(module(images[mine].double()), labels[mine]).backward()
        sparsifier.step()
        history.append({key: mask.clone() for key, mask in sparsifier.masks.items()})
    return {"masks": history, "model": dict(plain.state_dict())}


def main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder.resolve()}/meeting", rank=rank, world_size=world)
    try:
        save_checkpoint(folder / f"{rank}.pt", run(rank, world))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_two_processes_are_one_with_the_same_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.test_east_runs", str(tmp_path)]
    started = [subprocess.Popen([*command, str(rank), "2"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
    alone, ranks = run(0, 1), [load_checkpoint(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert not same(alone["masks"][0], alone["masks"][-1])
    assert same(ranks[0]["model"], ranks[1]["model"])
    for saved in ranks:
        assert same(saved["masks"], alone["masks"])
    for key, value in alone["model"].items():
        torch.testing.assert_close(ranks[0]["model"][key], value, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    main()
