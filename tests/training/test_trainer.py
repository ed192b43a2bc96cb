"""The trainer: killed and resumed bit for bit, one epoch after another, with everything that a recipe can ask for."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fxsparse
from fxsparse.errors import CheckpointError, Error
from fxsparse.sparsity.counting import profile
from fxsparse.training.callbacks import Callback
from fxsparse.training.checkpoint import alone_in, load_checkpoint, save_checkpoint
from fxsparse.training.data import Data, Images
from fxsparse.training.recipe import Recipe
from fxsparse.training.trainer import CHECKPOINT, Trainer
from fxsparse.training.trainer_state import PARTS
from tests.training.small import network, same

ROOT = Path(__file__).resolve().parents[2]


def images(count: int, seed: int) -> Images:
    """Four classes that differ in which quarter is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 120, (count, 6, 6, 3), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        pixels[index, 3 * (label // 2) : 3 * (label // 2) + 3, 3 * (label % 2) : 3 * (label % 2) + 3] += 120
    return Images(pixels, labels)


DATA = Data(images(80, 0), images(24, 1), tuple("abcd"))


class Quarters(nn.Sequential):
    """Sees where the light is, and has dropout, so that chance matters."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            conv = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
            super().__init__(*conv, nn.AvgPool2d(3), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 4))


def recipe(**entries: Any) -> Recipe:
    usual: dict[str, Any] = {"model": "none", "data": "none", "method": "rigl", "options": {"density": 0.3, "interval": 3}}
    usual |= {"epochs": 3, "batch": 16, "lr": 0.05, "crop": 0, "flip": False, "checkpoint_every": 2}
    return Recipe(**{**usual, **entries})


EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dense": {"method": "dense", "options": {}},
    "everything": {"ema": 0.9, "clip": 0.5, "accumulate": 2, "precision": "bf16", "label_smoothing": 0.1, "warmup": 1.0, "flip": True},
    "adamw": {"optimizer": "adamw", "lr": 1e-2, "schedule": "multistep", "crop": 1},
    "scaled": {"precision": "fp16", "schedule": "onecycle"},
    "sr-ste": {"method": "sr-ste", "options": {"exclude": ["0"]}},
    "iee": {"method": "iee", "options": {"density": 0.3, "cycles": 1, "estimate": 2, "explore": 2}},
    "channels": {"method": "iee-channels", "options": {"units": 0.5, "cycles": 1, "estimate": 2, "explore": 2}, "ema": 0.9},
}


def run(chosen: Recipe, folder: Path, **options: Any) -> Any:
    return Trainer(chosen, folder, model=Quarters(), data=DATA).run(**options)


def kept(folder: Path) -> tuple[Any, ...]:
    """All that a run leaves, but the clock's readings."""
    result = json.loads((folder / "result.json").read_text())
    checkpoint = load_checkpoint(folder / CHECKPOINT)
    checkpoint.pop("clock")
    for name in ("seconds", "processor_seconds"):
        result.pop(name)
    return (folder / "metrics.jsonl").read_bytes(), result, checkpoint, load_file(folder / "weights.safetensors")


class Stop(Exception):
    """As if the machine had stopped."""


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def before_step(self, trainer: Trainer) -> None:
        if trainer.step == self.at:
            raise Stop


@pytest.mark.parametrize("name", EXTRAS)
def test_stopped_anywhere_and_resumed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe(**EXTRAS[name])
    whole = run(chosen, tmp_path / "whole")
    assert whole.steps == 15 and len(whole.epochs) == 3
    # A callback would stand in the checkpoint, so the stops are put between the steps from outside.
    plain = Trainer._step
    stops = [1, 5, 6, 9, 14]

    def step(self: Trainer, *arguments: Any) -> None:
        if stops and self.step == stops[0]:
            stops.pop(0)
            raise Stop
        plain(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", step)
    while stops:
        with pytest.raises(Stop):
            run(chosen, tmp_path / "parts", resume=True)
    run(chosen, tmp_path / "parts", resume=True)
    assert same(kept(tmp_path / "whole"), kept(tmp_path / "parts"))
    assert same(run(chosen, tmp_path / "parts", resume=True).epochs, whole.epochs)  # a finished run is not run again


def killed(folder: str, step: int) -> None:
    """What the processes of the next test do: train, and be killed before a step."""
    torch.set_num_threads(1)
    plain = Trainer._step

    def stepping(self: Trainer, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, pixels, labels)

    Trainer._step = stepping  # type: ignore[method-assign]
    run(recipe(**EXTRAS["everything"]), Path(folder), resume=True)


def test_killed_at_several_steps_and_resumed(tmp_path: Path) -> None:
    run(recipe(**EXTRAS["everything"]), tmp_path / "whole")
    folder = tmp_path / "parts"
    for step, status in ((3, -signal.SIGKILL), (10, -signal.SIGKILL), (-1, 0)):
        code = f"from tests.training.test_trainer import killed; killed({str(folder)!r}, {step})"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=200)
        assert done.returncode == status, done.stderr.decode()
    assert same(kept(tmp_path / "whole"), kept(folder))


def test_it_learns_and_reports_the_last_epoch(tmp_path: Path) -> None:
    result = run(recipe(epochs=12, checkpoint_every=0), tmp_path)
    assert result.accuracy > 0.9
    assert result.accuracy == result.epochs[-1]["accuracy"] and result.loss == result.epochs[-1]["test_loss"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(result.epochs)
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert {line["nonzeros"] for line in lines} == {round(0.3 * 344)}
    weights = load_file(tmp_path / "weights.safetensors")
    assert int(weights["0.weight"].count_nonzero() + weights["6.weight"].count_nonzero()) <= round(0.3 * 344)


def test_the_cost_is_counted(tmp_path: Path) -> None:
    result = run(recipe(method="dense", options={}), tmp_path / "dense")
    macs = profile(Quarters(), torch.zeros(1, 3, 6, 6)).macs()
    assert macs == 36 * 216 + 128
    assert result.train_macs == 15 * 16 * (macs + 36 * 216 + 2 * 128)  # the first layer needs no gradient of the images
    sparse = run(recipe(method="static", options={"density": 0.25, "allocation": "uniform"}), tmp_path / "sparse")
    assert sparse.train_macs == result.train_macs // 4
    exploring = run(recipe(**EXTRAS["iee"]), tmp_path / "iee")
    assert 0 < exploring.exploration_macs < exploring.train_macs


def test_channels_end_physically_small(tmp_path: Path) -> None:
    result = run(recipe(**EXTRAS["channels"]), tmp_path)
    assert result.parameters < sum(p.numel() for p in Quarters().parameters())
    again = fxsparse.load(tmp_path / "network", Quarters())
    weights = load_file(tmp_path / "weights.safetensors")
    assert again.module.state_dict()["0.weight"].shape == weights["0.weight"].shape == (4, 3, 3, 3)


def test_accumulated_is_the_same_training() -> None:
    ends = []
    for parts in (1, 4):
        trainer = Trainer(recipe(accumulate=parts, options={"density": 0.3, "interval": 100}), model=network(norms=False), data=DATA)
        trainer.run()
        ends.append(dict(trainer.model.state_dict()))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-6)


def test_the_average_is_what_is_reported_and_masked(tmp_path: Path) -> None:
    trainer = Trainer(recipe(ema=0.99), tmp_path, model=Quarters(), data=DATA)
    trainer.run()
    assert trainer.average is not None and trainer.sparsifier is not None
    weights = load_file(tmp_path / "weights.safetensors")
    assert same(weights, dict(trainer.average.module.state_dict()))
    for name, mask in trainer.sparsifier.masks.items():
        assert not weights[name][~mask].any()


def test_callbacks_swap_the_model_and_are_resumed(tmp_path: Path) -> None:
    class Widened(Callback):
        """Puts a layer in before training, and takes it out after step 7: the optimizer keeps its parameters."""

        def __init__(self) -> None:
            self.out = False

        def attach(self, trainer: Trainer) -> None:
            trainer.model = nn.Sequential(nn.Hardtanh(-9.0, 9.0), trainer.model)

        def after_step(self, trainer: Trainer) -> None:
            if trainer.step == 7:
                self.out = True
                trainer.swap(nn.Sequential(nn.Identity(), trainer.model.get_submodule("1")))

        def state_dict(self) -> dict[str, Any]:
            return {"out": self.out}

        def load_state_dict(self, trainer: Trainer, state: Any) -> None:
            self.out = bool(state["out"])
            if self.out:
                trainer.swap(nn.Sequential(nn.Identity(), trainer.model.get_submodule("1")))

    chosen = recipe()
    whole = Trainer(chosen, tmp_path / "whole", model=Quarters(), data=DATA, callbacks=[Widened()])
    whole.run()
    assert isinstance(whole.model.get_submodule("0"), nn.Identity)
    for stop in (6, 9):

        class Stopped(Widened):
            def before_step(self, trainer: Trainer, stop: int = stop) -> None:
                if trainer.step == stop:
                    raise Stop

        with pytest.raises(Stop):
            Trainer(chosen, tmp_path / "parts", model=Quarters(), data=DATA, callbacks=[Stopped()]).run(resume=True)
    Trainer(chosen, tmp_path / "parts", model=Quarters(), data=DATA, callbacks=[Widened()]).run(resume=True)
    assert same(kept(tmp_path / "whole"), kept(tmp_path / "parts"))


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(Error, match=r"another process trains in .*; wait for it, or give another folder"):
        run(recipe(epochs=1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], [".lock"])
    run(recipe(epochs=1), tmp_path)
    with pytest.raises(Error, match="another process"), alone_in(tmp_path):
        Trainer(recipe(epochs=1), tmp_path, model=Quarters(), data=DATA).run(resume=True)


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    run(recipe(epochs=1), tmp_path)
    before = kept(tmp_path)
    with pytest.raises(Error, match="holds a run already; resume it"):
        run(recipe(epochs=1), tmp_path)
    with pytest.raises(CheckpointError, match=r"begun with another recipe \(lr was 0.05 and is 0.2\)"):
        run(recipe(epochs=1, lr=0.2), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"\(method was 'rigl' and is 'set'\)"):
        run(recipe(epochs=1, method="set"), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        Trainer(recipe(epochs=1), tmp_path, model=network(), data=DATA).run(resume=True)
    with pytest.raises(CheckpointError, match="had 0 callbacks, and now there are 1"):
        Trainer(recipe(epochs=1), tmp_path, model=Quarters(), data=DATA, callbacks=[Callback()]).run(resume=True)
    assert same(before, kept(tmp_path))
    torch.save({"recipe": {}}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="is none of a training run, as it lacks 'step'"):
        run(recipe(epochs=1), tmp_path, resume=True)


@pytest.mark.parametrize("part", PARTS)
def test_damaged_parts_of_a_checkpoint_are_said(part: str, tmp_path: Path) -> None:
    run(recipe(epochs=1), tmp_path)
    whole = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    wrongs: tuple[object, ...] = (3, "text", [])
    for wrong in wrongs:
        if whole[part] is None or type(wrong) is type(whole[part]):
            continue  # what the run has no use for
        torch.save(whole | {part: wrong}, tmp_path / CHECKPOINT)
        with pytest.raises(CheckpointError):
            run(recipe(epochs=1), tmp_path, resume=True)


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, file: IO[bytes]) -> None:
        file.write(b"begun")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 55296 vs 55192")  # so torch's writer ends then

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"checkpoint.pt cannot be written: No space left on device; make room, and resume"):
        save_checkpoint(tmp_path / CHECKPOINT, {"step": 3})
    assert not list(tmp_path.iterdir())


def test_bad_runs_are_one_error() -> None:
    with pytest.raises(Error, match="there is no method 'xyz'; choose dense"):
        Trainer(recipe(method="xyz"), model=Quarters(), data=DATA)
    with pytest.raises(Error, match=r"there is no method 'rigle' \(did you mean 'rigl'"):
        Trainer(recipe(method="rigle"), model=Quarters(), data=DATA)
    with pytest.raises(Error, match=r"the method rigl has no option 'speed' \(did you mean 'seed'"):
        Trainer(recipe(options={"density": 0.1, "speed": 3}), model=Quarters(), data=DATA)
    with pytest.raises(Error, match=r"the method iee-channels has no density; give a part of the cost: macs=0\.5"):
        Trainer(recipe(method="iee-channels", options={"density": 0.1}), model=Quarters(), data=DATA)
    with pytest.raises(Error, match=r"the method iee-channels has no option 'mac' \(did you mean 'macs'"):
        Trainer(recipe(method="iee-channels", options={"mac": 0.1}), model=Quarters(), data=DATA)
    with pytest.raises(Error, match="gradual has no option 'cyclic'"):
        Trainer(recipe(method="gradual", options={"density": 0.1, "cyclic": True}), model=Quarters(), data=DATA)
    with pytest.raises(Error, match=r"cyclic is true, or a table of cycles, part, high, shape, not \{'cycle': 3\}"):
        Trainer(recipe(options={"density": 0.1, "cyclic": {"cycle": 3}}), model=Quarters(), data=DATA)
    with pytest.raises(Error, match="a batch of 128 cannot be drawn from 80 images"):
        Trainer(recipe(batch=128), model=Quarters(), data=DATA)
    with pytest.raises(Error, match="the device 'tpu' cannot be used"):
        Trainer(recipe(device="tpu"), model=Quarters(), data=DATA)
    with pytest.raises(Error, match=r"the model returned \(1, 8, 6, 6\)"):
        Trainer(recipe(), model=nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), data=DATA)
    with pytest.raises(Error, match=r"the model has scores for 2 classes, and the data have 4"):
        Trainer(recipe(), model=nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), data=DATA)
    with pytest.raises(Error, match=r"the model does not take the images of shape \(3, 6, 6\): mat1 and mat2"):
        Trainer(recipe(), model=nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), data=DATA)
    with pytest.raises(Error, match=r"the loss is nan in epoch 1|not a number"):
        Trainer(recipe(lr=1e30), model=network(), data=DATA).run()


def test_models_by_name() -> None:
    own = Trainer(recipe(model="tests.training.small:network", model_options={"norms": False}), data=DATA)  # takes no num_classes
    assert own.sparsifier is not None
    assert [own.model.get_parameter(name).shape for name in own.sparsifier.masks] == [(16, 3, 3, 3), (32, 16, 3, 3), (4, 32)]
    named = Trainer(recipe(model="fxsparse:resnet20"), data=DATA)
    assert named.model.get_parameter("linear.weight").shape == (4, 64)
    with pytest.raises(Error, match="model_options cannot hold 'seed'"):
        Trainer(recipe(model="fxsparse:resnet20", model_options={"seed": 3}), data=DATA)
    with pytest.raises(Error, match="could not be built with"):
        Trainer(recipe(model="fxsparse:resnet20", model_options={"depths": 3}), data=DATA)
